"""One-stage detector: backbone with necks, dense head, and perhaps an auxiliary branch that only training has."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from detectron2.modeling import META_ARCH_REGISTRY
from detectron2.modeling.meta_arch.dense_detector import DenseDetector
from detectron2.structures import ImageList, Instances
from torch import Tensor, nn

from d2tiny.layers.contrast import norms_for
from d2tiny.layers.folding import prepare_for_inference
from d2tiny.modeling.contracts import AuxiliaryNeck, Backbone, DenseHead, HeadOutputs
from d2tiny.modeling.meta_arch.inputs import require_batch
from d2tiny.modeling.meta_arch.pictures import check_period, picture_is_due, put_detections
from d2tiny.modeling.necks.levels import check_levels

__all__ = ["AuxiliaryBranch", "TinyDenseDetector"]


class AuxiliaryBranch(nn.Module):
    """Features and a head of their own, of which only the losses are used."""

    neck: AuxiliaryNeck
    head: DenseHead[Any]

    def __init__(self, *, neck: AuxiliaryNeck, head: DenseHead[Any], loss_weight: float = 0.25) -> None:
        """Join the two.

        Args:
            neck: maps image and backbone features to its ``out_features``, for example :class:`d2tiny.modeling.ARB`.
            head: predicts on these feature maps, with a label assigner of its own.
            loss_weight: factor on its losses.

        Raises:
            ValueError: a head for other channels or strides than the neck's.
        """
        super().__init__()
        check_head("AuxiliaryBranch", head, list(neck.out_features), neck.out_channels, neck.strides)
        self.neck, self.head, self.loss_weight = neck, head, loss_weight

    def forward(self, image: Tensor, features: dict[str, Tensor], instances: list[Instances]) -> dict[str, Tensor]:
        """Return the weighted losses of a batch, ``loss_aux_…``.

        Args:
            image: (B, 3, H, W), normalised and padded.
            features: the backbone's feature maps.
            instances: the ground truth of B images.
        """
        levels = self.neck(image, features)
        losses = compute_losses(self.head, [levels[name] for name in self.neck.out_features], instances)
        return {name.replace("loss_", "loss_aux_"): self.loss_weight * value for name, value in losses.items()}


def compute_losses(
    head: DenseHead[Any], features: list[Tensor], instances: list[Instances], outputs: HeadOutputs | None = None
) -> dict[str, Tensor]:
    """Return the losses of a head by name.

    Args:
        head: any dense head.
        features: feature maps (B, C, H_l, W_l), finest first.
        instances: the ground truth of B images.
        outputs: of the head on these features; None computes them.
    """
    outputs = head(features) if outputs is None else outputs
    targets = head.targets(head.priors(features, assign=True), instances, outputs)
    return head.losses(outputs, head.priors(features), targets)


def check_head(
    owner: str,
    head: DenseHead[Any],
    levels: list[str],
    channels: Sequence[int | None],
    strides: Sequence[int | None],
) -> None:
    """Compare the channels and strides that a head was built for, where it has such attributes, with its levels.

    Raises:
        ValueError: channels or strides differ.
    """
    for key, actual in (("in_channels", list(channels)), ("strides", list(strides))):
        expected = getattr(head, key, None)
        if expected is not None and list(expected) != actual:
            raise ValueError(f"{owner}: head.{key}={list(expected)}, but the levels {levels} have {key} {actual}.")


@META_ARCH_REGISTRY.register()
class TinyDenseDetector(DenseDetector):
    """Detectron2's dense detector around our heads: FCOS, RetinaNet, YOLOX, YOLOv5, YOLO11, RS-TinyNet."""

    backbone: Backbone
    head: DenseHead[Any]

    def __init__(
        self,
        *,
        backbone: Backbone,
        head: DenseHead[Any],
        in_features: Sequence[str],
        pixel_mean: Sequence[float],
        pixel_std: Sequence[float],
        input_format: str = "RGB",
        auxiliary: AuxiliaryBranch | None = None,
        vis_period: int = 0,
    ) -> None:
        """Put the parts together.

        Args:
            backbone: with its necks.
            head: predicts on the levels of ``in_features``.
            in_features: names of the pyramid's levels, finest first.
            pixel_mean: mean of each channel.
            pixel_std: standard deviation of each channel.
            input_format: order of the channels, ``RGB`` or ``BGR``, for visualisation.
            auxiliary: a branch whose losses are added in training; predictions do not use it.
            vis_period: iterations between two pictures of ground truth and detections in the event storage; 0 for none.

        Raises:
            ValueError: a head for other channels or strides than the backbone's, or a negative period.
        """
        super().__init__(backbone, head, list(in_features), pixel_mean=pixel_mean, pixel_std=pixel_std)
        check_period(type(self).__name__, vis_period)
        self.input_format, self.vis_period = input_format, vis_period
        shapes = backbone.output_shape()
        if all(name in shapes for name in in_features):  # the engine reports missing levels
            specs = [shapes[name] for name in in_features]
            check_head(
                type(self).__name__, head, list(in_features), [s.channels for s in specs], [s.stride for s in specs]
            )
        if auxiliary is not None:
            neck = auxiliary.neck
            check_levels("ARB", dict(zip(neck.in_features, neck.in_channels, strict=True)), shapes)
            # Levels of other strides would be resized to those of the branch without an error.
            strides = [shapes[name].stride for name in neck.in_features]
            check_head("AuxiliaryBranch", auxiliary.head, list(neck.in_features), neck.out_channels, strides)
        self.auxiliary = auxiliary
        prepare_for_inference(self)

    def strip_auxiliary(self) -> None:
        """Remove the auxiliary branch, for export; predictions stay the same bit for bit."""
        self.auxiliary = None

    def forward(self, batched_inputs: list[dict[str, Any]]) -> Any:
        """Return the losses in training, else the detections, in the format of Detectron2's models."""
        require_batch(self, batched_inputs)
        if not self.training:
            return super().forward(batched_inputs)
        with norms_for(self, [item["image"] for item in batched_inputs]):
            return self._losses(batched_inputs)

    def _losses(self, batched_inputs: list[dict[str, Any]]) -> Any:
        if self.auxiliary is None:
            return super().forward(batched_inputs)
        images = self.preprocess_image(batched_inputs)
        instances = [item["instances"].to(self.device) for item in batched_inputs]
        features = self.backbone(images.tensor)
        levels = [features[name] for name in self.head_in_features]
        losses = self.forward_training(images, levels, self.head(levels), instances)
        return losses | self.auxiliary(images.tensor, features, instances)

    def forward_training(
        self, images: ImageList, features: list[Tensor], predictions: HeadOutputs, gt_instances: list[Instances]
    ) -> dict[str, Tensor]:
        """Return the losses of a batch by name; where a picture of it is due, hand it to the event storage."""
        if picture_is_due(self.vis_period):
            with torch.no_grad():
                found = self.forward_inference(images, features, predictions)[0]
                first = {"image": images[0] * self.pixel_std + self.pixel_mean, "instances": gt_instances[0]}
            put_detections(first, found, self.input_format)
        return compute_losses(self.head, features, gt_instances, predictions)

    def forward_inference(self, images: ImageList, features: list[Tensor], predictions: HeadOutputs) -> list[Instances]:
        """Return the detections of each image by falling score."""
        return self.head.decode(predictions, self.head.priors(features), images.image_sizes)
