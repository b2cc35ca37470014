"""A detector of one stage: backbone, neck, dense head."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from detectron2.modeling import META_ARCH_REGISTRY
from detectron2.modeling.meta_arch.dense_detector import DenseDetector
from torch import Tensor

from d2tiny.modeling.dense_heads import DenseHead

__all__ = ["TinyDenseDetector"]


@META_ARCH_REGISTRY.register()
class TinyDenseDetector(DenseDetector):
    """Detectron2's dense detector around a head of ours (FCOS, RetinaNet)."""

    head: DenseHead

    def __init__(
        self,
        *,
        backbone: Any,
        head: DenseHead,
        in_features: Sequence[str],
        pixel_mean: Sequence[float],
        pixel_std: Sequence[float],
        input_format: str = "RGB",
    ) -> None:
        """Put the parts together.

        Args:
            backbone: with its neck.
            head: predicts on the levels of ``in_features``.
            in_features: names of the pyramid's levels, finest first.
            pixel_mean: of each channel.
            pixel_std: of each channel.
            input_format: order of the channels, for visualisation.
        """
        super().__init__(backbone, head, list(in_features), pixel_mean=pixel_mean, pixel_std=pixel_std)
        self.input_format = input_format

    def forward_training(
        self, images: Any, features: list[Tensor], predictions: Any, gt_instances: list[Any]
    ) -> dict[str, Tensor]:
        """Losses of a batch."""
        targets = self.head.targets(self.head.priors(features, assign=True), gt_instances)
        return self.head.losses(predictions, self.head.priors(features), targets)

    def forward_inference(self, images: Any, features: list[Tensor], predictions: Any) -> list[Any]:
        """Detections of each image."""
        return self.head.decode(predictions, self.head.priors(features), images.image_sizes)
