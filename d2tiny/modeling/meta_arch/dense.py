"""A detector of one stage: backbone, neck, dense head, and perhaps a branch that helps it in training."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from detectron2.modeling import META_ARCH_REGISTRY
from detectron2.modeling.meta_arch.dense_detector import DenseDetector
from torch import Tensor, nn

from d2tiny.modeling.dense_heads import DenseHead, YOLOHead
from d2tiny.modeling.necks.levels import check_levels

__all__ = ["AuxiliaryBranch", "TinyDenseDetector"]


class AuxiliaryBranch(nn.Module):
    """Features of their own with a head of their own; only their losses are wanted."""

    def __init__(self, *, neck: Any, head: DenseHead | YOLOHead, weight: float = 0.25) -> None:
        """Join the two.

        Args:
            neck: maps image and backbone features to the levels of ``neck.levels``, as :class:`d2tiny.modeling.ARB`.
            head: with its own assignment, on these levels.
            weight: of its losses.

        Raises:
            ValueError: a head for other channels.
        """
        super().__init__()
        check_head("AuxiliaryBranch", head, list(neck.levels), neck.channels, neck.strides)
        self.neck, self.head, self.weight = neck, head, weight

    def forward(self, image: Tensor, features: dict[str, Tensor], instances: list[Any]) -> dict[str, Tensor]:
        """The weighted losses of a batch, under ``aux_`` names."""
        levels = self.neck(image, features)
        losses = losses_of(self.head, [levels[name] for name in self.neck.levels], instances)
        return {name.replace("loss_", "loss_aux_"): self.weight * value for name, value in losses.items()}


def losses_of(
    head: DenseHead | YOLOHead, features: list[Tensor], instances: list[Any], said: Any = None
) -> dict[str, Tensor]:
    """Losses of a head on feature maps; ``said`` are its predictions, where they are known."""
    predictions = head(features) if said is None else said
    targets = head.targets(head.priors(features, assign=True), instances, predictions)
    return head.losses(predictions, head.priors(features), targets)


def check_head(
    who: str, head: Any, levels: list[str], channels: Sequence[int | None], strides: Sequence[int | None]
) -> None:
    """Compare what a head was built for with its levels.

    Raises:
        ValueError: channels or strides differ.
    """
    for key, found in (("in_channels", list(channels)), ("strides", list(strides))):
        wanted = getattr(head, key, None)
        if wanted is not None and list(wanted) != found:
            raise ValueError(f"{who}: head.{key}={list(wanted)}, but the levels {levels} have {key} {found}.")


@META_ARCH_REGISTRY.register()
class TinyDenseDetector(DenseDetector):
    """Detectron2's dense detector around a head of ours: FCOS, RetinaNet, YOLOX, YOLOv5, YOLO11, RS-TinyNet."""

    head: DenseHead | YOLOHead

    def __init__(
        self,
        *,
        backbone: Any,
        head: DenseHead | YOLOHead,
        in_features: Sequence[str],
        pixel_mean: Sequence[float],
        pixel_std: Sequence[float],
        input_format: str = "RGB",
        auxiliary: AuxiliaryBranch | None = None,
    ) -> None:
        """Put the parts together.

        Args:
            backbone: with its neck.
            head: predicts on the levels of ``in_features``.
            in_features: names of the pyramid's levels, finest first.
            pixel_mean: of each channel.
            pixel_std: of each channel.
            input_format: order of the channels, for visualisation.
            auxiliary: a branch that learns beside the head and is not used for prediction.

        Raises:
            ValueError: a head for other channels than the backbone's.
        """
        super().__init__(backbone, head, list(in_features), pixel_mean=pixel_mean, pixel_std=pixel_std)
        self.input_format = input_format
        shapes = backbone.output_shape()
        if all(name in shapes for name in in_features):  # the engine names those that are not there
            specs = [shapes[name] for name in in_features]
            check_head(
                type(self).__name__, head, list(in_features), [s.channels for s in specs], [s.stride for s in specs]
            )
        if auxiliary is not None:
            neck = auxiliary.neck
            check_levels("ARB", dict(zip(neck.in_features, neck.channels, strict=True)), shapes)
        self.auxiliary = auxiliary

    def strip_auxiliary(self) -> None:
        """Drop what only training needs, for export; predictions stay as they are, bit for bit."""
        self.auxiliary = None

    def forward(self, batched_inputs: list[dict[str, Any]]) -> Any:
        """Losses in training, else detections, as Detectron2's models give them."""
        if not self.training or self.auxiliary is None:
            return super().forward(batched_inputs)
        images = self.preprocess_image(batched_inputs)
        instances = [item["instances"].to(self.device) for item in batched_inputs]
        features = self.backbone(images.tensor)
        losses = losses_of(self.head, [features[name] for name in self.head_in_features], instances)
        return losses | self.auxiliary(images.tensor, features, instances)

    def forward_training(
        self, images: Any, features: list[Tensor], predictions: Any, gt_instances: list[Any]
    ) -> dict[str, Tensor]:
        """Losses of a batch."""
        return losses_of(self.head, features, gt_instances, predictions)

    def forward_inference(self, images: Any, features: list[Tensor], predictions: Any) -> list[Any]:
        """Detections of each image."""
        return self.head.decode(predictions, self.head.priors(features), images.image_sizes)
