"""CSPDarknet of YOLOX (Ge et al., 2021) and YOLOv5."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from d2tiny.layers import SPP, ConvBN, CSPLayer, Focus
from d2tiny.modeling.backbone.staged import StagedBackbone, rounded

__all__ = ["CSPDarknet"]


class CSPDarknet(StagedBackbone):
    """Each stage is a convolution of stride 2 and a :class:`~d2tiny.layers.CSPLayer`; c5 pools over up to 13 cells.

    ``yolox`` has a Focus stem and pools before the last layer, which has no shortcut; ``yolov5`` has a 6×6 stem and
    pools after the last layer.
    """

    def __init__(
        self,
        *,
        depth: float = 0.33,
        width: float = 0.5,
        variant: str = "yolox",
        out_features: Sequence[str] = ("c3", "c4", "c5"),
    ) -> None:
        """Set the size.

        Args:
            depth: factor on the number of bottlenecks of the stages (3, 9, 9, 3 in YOLOX; 3, 6, 9, 3 in YOLOv5).
            width: factor on the channels 64, 128, 256, 512, 1024. s is 0.33 and 0.5, m 0.67 and 0.75, l 1 and 1.
            variant: ``yolox`` or ``yolov5``.
            out_features: names of the stages to return, of ``c2``, ``c3``, ``c4``, ``c5``.

        Raises:
            ValueError: an unknown variant or stage.
        """
        if variant not in ("yolox", "yolov5"):
            raise ValueError(f"CSPDarknet: variant must be 'yolox' or 'yolov5', got {variant!r}.")
        yolox = variant == "yolox"
        channels = [rounded(width * c) for c in (64, 128, 256, 512, 1024)]
        repeats = [max(round(depth * n), 1) for n in ((3, 9, 9, 3) if yolox else (3, 6, 9, 3))]
        stem = Focus(3, channels[0]) if yolox else ConvBN(3, channels[0], 6, 2, padding=2)
        stages = []
        for i, count in enumerate(repeats):
            last = i == len(repeats) - 1
            parts: list[nn.Module] = [ConvBN(channels[i], channels[i + 1], 3, 2)]
            parts.append(CSPLayer(channels[i + 1], channels[i + 1], count, shortcut=not (last and yolox)))
            if last:
                parts.insert(1 if yolox else 2, SPP(channels[i + 1], channels[i + 1]))
            stages.append(nn.Sequential(*parts))
        super().__init__(stem, stages, channels[1:], out_features)
