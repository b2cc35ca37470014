"""What the parts of a detector promise one another.

Letters: **B** images of a batch, **C** channels, **K** classes, **L** levels, **N** priors of an image,
**G** objects of an image, **R** ignore regions of an image, **Q** queries.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

from detectron2.layers import ShapeSpec
from detectron2.structures import Instances
from torch import Tensor

from d2tiny.modeling.priors import GridPriors

__all__ = [
    "AssignResult",
    "Backbone",
    "DenseHead",
    "DenseTargets",
    "HeadOutputs",
    "MatchIndices",
    "Neck",
    "QueryPredictions",
    "Targets",
]


class Backbone(Protocol):
    """Detectron2's backbone: maps images to named feature maps."""

    @property
    def size_divisibility(self) -> int:
        """Pixels that the padded height and width must be a multiple of; 0 where any size will do."""

    def output_shape(self) -> dict[str, ShapeSpec]:
        """Return channels and stride of each feature map."""

    def __call__(self, image: Tensor, /) -> dict[str, Tensor]:
        """Map (B, 3, H, W) to feature maps (B, C, H / stride, W / stride)."""


class Neck(Protocol):
    """Maps the feature maps of a backbone to others."""

    def output_shape(self, input_shape: dict[str, ShapeSpec]) -> dict[str, ShapeSpec]:
        """Return channels and stride of each output for inputs of these shapes.

        Raises:
            ValueError: the neck was not built for such inputs.
        """

    def __call__(self, features: dict[str, Tensor], /) -> dict[str, Tensor]:
        """Map named feature maps to named feature maps; the input is not modified."""


@dataclass(frozen=True)
class HeadOutputs:
    """Raw outputs of a dense head; each is a list over L levels, finest first.

    Attributes:
        pred_logits: (B, N_l, K) class logits.
        pred_deltas: (B, N_l, 4) encoded boxes, or (B, N_l, 4 · bins) logits of distributions over distances.
        pred_quality: (B, N_l, 1) logits of centerness (FCOS) or objectness (YOLOX, YOLOv5); None without one.
    """

    pred_logits: list[Tensor]
    pred_deltas: list[Tensor]
    pred_quality: list[Tensor] | None = None


@dataclass(frozen=True)
class DenseTargets:
    """Targets of the priors of a batch.

    Attributes:
        classes: (B, N) int64, the class of positives, K for background, -1 where nothing is learned.
        boxes: (B, N, 4) XYXY in px, the matched object of positives.
        quality: (B, N) float32, the assigner's score of the match.
    """

    classes: Tensor
    boxes: Tensor
    quality: Tensor


@dataclass(frozen=True)
class Targets:
    """Objects of a batch, as detection transformers use them: one tensor for each image.

    Attributes:
        labels: (G,) int64 classes.
        boxes: (G, 4) cx, cy, w, h in shares of the image.
        ignore_boxes: (R, 4) ignore regions, likewise.
    """

    labels: list[Tensor]
    boxes: list[Tensor]
    ignore_boxes: list[Tensor]


@dataclass(frozen=True)
class QueryPredictions:
    """Predictions of queries: of one decoder layer, or of the encoder for the tokens that became queries.

    Attributes:
        pred_logits: (B, Q, K) class logits.
        pred_boxes: (B, Q, 4) cx, cy, w, h in shares of the image.
    """

    pred_logits: Tensor
    pred_boxes: Tensor


class MatchIndices(NamedTuple):
    """Pairs of a query and the object that it is trained on; P pairs over all images of a batch.

    Attributes:
        batch_idx: (P,) int64, the image.
        query_idx: (P,) int64, the query in that image.
        target_idx: (P,) int64, the object in that image.
    """

    batch_idx: Tensor
    query_idx: Tensor
    target_idx: Tensor


@dataclass(frozen=True)
class AssignResult:
    """Labels of the priors of one image.

    Attributes:
        matched_idxs: (N,) int64, 0-based index of the matched ground truth, -1 where there is none.
        labels: (N,) int8, 1 positive, 0 negative, -1 ignored.
        quality: (N,) float32, the assigner's score of the match, 0 where there is none.
    """

    matched_idxs: Tensor
    labels: Tensor
    quality: Tensor


class DenseHead(Protocol):
    """Predicts classes and boxes at every prior of a feature pyramid."""

    num_classes: int

    def __call__(self, features: list[Tensor], /) -> HeadOutputs:
        """Predict from L feature maps, finest first."""

    def priors(self, features: Sequence[Tensor], *, assign: bool = False) -> GridPriors:
        """Return the priors on these maps: those of box regression, or with ``assign`` those of label assignment."""

    def targets(self, priors: GridPriors, instances: Sequence[Instances], outputs: HeadOutputs) -> Any:
        """Label the priors of each image; what comes back is what :meth:`losses` takes."""

    def losses(self, outputs: HeadOutputs, priors: GridPriors, targets: Any) -> dict[str, Tensor]:
        """Return the scalar losses of a batch by name."""

    def decode(
        self, outputs: HeadOutputs, priors: GridPriors, image_sizes: Sequence[tuple[int, int]]
    ) -> list[Instances]:
        """Return the detections of each image by falling score."""
