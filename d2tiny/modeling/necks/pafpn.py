"""Path aggregation network: a top-down and a bottom-up path (Liu et al., PANet, 2018)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from detectron2.layers import ShapeSpec
from torch import Tensor, nn
from torch.nn import functional as F

from d2tiny.layers import C3k2, ConvBN, CSPLayer
from d2tiny.modeling.necks.levels import check_levels
from d2tiny.utils.registry import NECK_REGISTRY

__all__ = ["PAFPN"]


@NECK_REGISTRY.register()
class PAFPN(nn.Module):
    """The neck of YOLOX and YOLOv5 (``csp``) and of YOLO11 (``c3k2``), over any number of levels.

    Top-down ``T_i = block([up(lateral(T_{i+1})); C_i])``, bottom-up ``P_i = block([conv(P_{i-1}); lateral(T_i)])``.
    Only ``csp`` has lateral convolutions.

    Levels ``c3, c4, c5`` of the backbone become ``p3, p4, p5``; the backbone's feature maps are returned beside them.
    """

    def __init__(
        self,
        *,
        in_channels: Sequence[int],
        out_channels: Sequence[int],
        in_features: Sequence[str] = ("c3", "c4", "c5"),
        repeats: int = 1,
        block: str = "csp",
        c3k: bool = False,
    ) -> None:
        """Build the paths.

        Args:
            in_channels: channels of the input levels, finest first.
            out_channels: channels of the outputs; for ``csp`` the same as ``in_channels``.
            in_features: names of the input levels; the last character is a number and names the output, ``p`` + number.
            repeats: number of bottlenecks in a ``csp`` block, or of inner blocks in a ``c3k2`` block.
            block: ``csp`` or ``c3k2``.
            c3k: of ``c3k2``; the coarsest level always has it.

        Raises:
            ValueError: an unknown block, or numbers of levels that differ.
        """
        super().__init__()
        if block not in ("csp", "c3k2"):
            raise ValueError(f"PAFPN: block must be 'csp' or 'c3k2', got {block!r}.")
        if not len(in_features) == len(in_channels) == len(out_channels) or len(in_features) < 2:
            raise ValueError(
                f"PAFPN: {len(in_features)} levels {list(in_features)} with {len(in_channels)} in_channels and "
                f"{len(out_channels)} out_channels; there must be as many of each, and at least two."
            )
        if len({name[-1] for name in in_features}) != len(in_features):
            raise ValueError(f"PAFPN: in_features {list(in_features)} must end in different numbers.")
        self.in_features = tuple(in_features)
        self.names = tuple(f"p{name[-1]}" for name in in_features)
        self.in_channels, self.out_channels = list(in_channels), list(out_channels)
        csp, levels = block == "csp", len(in_features)

        def make(inputs: int, outputs: int, top: bool = False) -> nn.Module:
            if csp:
                return CSPLayer(inputs, outputs, repeats, shortcut=False)
            return C3k2(inputs, outputs, repeats, c3k=c3k or top)

        self.lateral, self.down_blocks = nn.ModuleList(), nn.ModuleList()  # of levels L-1 … 1, and L-2 … 0
        sides = {}  # channels of the lateral inputs of the bottom-up path
        above = in_channels[-1]
        for i in range(levels - 1, 0, -1):
            sides[i] = in_channels[i - 1] if csp else above
            self.lateral.append(ConvBN(above, sides[i]) if csp else nn.Identity())
            self.down_blocks.append(make(sides[i] + in_channels[i - 1], out_channels[i - 1]))
            above = out_channels[i - 1]
        self.reduce, self.up_blocks = nn.ModuleList(), nn.ModuleList()  # of levels 1 … L-1
        for i in range(1, levels):
            below = out_channels[i - 1]
            self.reduce.append(ConvBN(below, below, 3, 2))
            self.up_blocks.append(make(below + sides[i], out_channels[i], top=i == levels - 1))

    def output_shape(self, input_shape: dict[str, ShapeSpec]) -> dict[str, ShapeSpec]:
        """Return channels and stride of each output.

        Raises:
            ValueError: a level is missing or has other channels.
        """
        check_levels("PAFPN", dict(zip(self.in_features, self.in_channels, strict=True)), input_shape)
        new = {
            level: ShapeSpec(channels=count, stride=input_shape[name].stride)
            for name, level, count in zip(self.in_features, self.names, self.out_channels, strict=True)
        }
        return {**input_shape, **new}

    def forward(self, features: dict[str, Tensor]) -> dict[str, Tensor]:
        """Return the feature maps and those of the pyramid; the input dict is not modified."""
        *fine, above = (features[name] for name in self.in_features)
        sides = []
        for lateral, block, level in zip(self.lateral, self.down_blocks, reversed(fine), strict=True):
            sides.append(lateral(above))
            up = F.interpolate(sides[-1], size=level.shape[-2:], mode="nearest")
            above = block(torch.cat((up, level), dim=1))
        pyramid = [above]
        for reduce, block, side in zip(self.reduce, self.up_blocks, reversed(sides), strict=True):
            pyramid.append(block(torch.cat((reduce(pyramid[-1]), side), dim=1)))
        return {**features, **dict(zip(self.names, pyramid, strict=True))}
