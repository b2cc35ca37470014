"""Base class of the YOLO backbones: a stem and stages that halve the resolution."""

from __future__ import annotations

from collections.abc import Sequence

from detectron2.layers import ShapeSpec
from detectron2.modeling.backbone import Backbone
from torch import Tensor, nn

from d2tiny.utils.errors import did_you_mean

__all__ = ["StagedBackbone", "rounded"]

# Stage c2 has stride 4, c3 stride 8, …
STAGES = ("c2", "c3", "c4", "c5")


def rounded(channels: float) -> int:
    """Round channels up to a multiple of 8, as all YOLO models do."""
    return -int(-channels // 8) * 8


class StagedBackbone(Backbone):
    """A stem of stride 2 and stages ``c2`` … ``c5`` of strides 4 … 32; sides of images must be multiples of 32."""

    def __init__(
        self, stem: nn.Module, stages: Sequence[nn.Module], channels: Sequence[int], out_features: Sequence[str]
    ) -> None:
        """Join the parts.

        Args:
            stem: of stride 2.
            stages: four, of stride 2 each.
            channels: of the four stages.
            out_features: names of the stages to return.

        Raises:
            ValueError: an unknown stage.
        """
        super().__init__()
        for name in out_features:
            if name not in STAGES:
                raise ValueError(f"{type(self).__name__}: no stage '{name}'. {did_you_mean(name, STAGES)}")
        self.stem = stem
        self.stages = nn.ModuleDict(dict(zip(STAGES, stages, strict=True)))
        self._out_features = tuple(name for name in STAGES if name in out_features)
        self._shapes = {
            name: ShapeSpec(channels=count, stride=4 << i)
            for i, (name, count) in enumerate(zip(STAGES, channels, strict=True))
        }

    @property
    def size_divisibility(self) -> int:
        """Pixels that the padded height and width must be a multiple of: the largest stride."""
        return 32

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        """Map (B, 3, H, W) to the feature maps of ``out_features``, (B, C, H / stride, W / stride)."""
        x, result = self.stem(image), {}
        for name, stage in self.stages.items():
            x = stage(x)
            if name in self._out_features:
                result[name] = x
        return result

    def output_shape(self) -> dict[str, ShapeSpec]:
        """Return channels and stride of each stage of ``out_features``."""
        return {name: self._shapes[name] for name in self._out_features}
