"""What the parts of a detector promise one another.

Letters: **B** images of a batch, **C** channels, **K** classes, **L** levels, **N** priors of an image,
**G** objects of an image, **R** ignore regions of an image, **Q** queries.

The Protocols are met by structure: a part needs no base class from here. They name ``forward``, not only the call, so
that mypy compares the signatures (``nn.Module.__call__`` accepts anything).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol, TypeVar

import torch
from detectron2.layers import ShapeSpec, cat
from detectron2.structures import Instances
from torch import Tensor, nn

from d2tiny.modeling.priors import GridPriors

__all__ = [
    "AssignResult",
    "AuxiliaryNeck",
    "Backbone",
    "DenseHead",
    "DenseTargets",
    "FeedbackBackbone",
    "HeadOutputs",
    "MatchIndices",
    "Neck",
    "PoolingNeck",
    "QueryPredictions",
    "Targets",
]

TargetsT = TypeVar("TargetsT")


class Backbone(Protocol):
    """Detectron2's backbone: maps images to named feature maps."""

    @property
    def size_divisibility(self) -> int:
        """Pixels that the padded height and width must be a multiple of; 0 where any size will do."""

    def output_shape(self) -> dict[str, ShapeSpec]:
        """Return channels and stride of each feature map."""

    def forward(self, image: Tensor, /) -> dict[str, Tensor]:
        """Map (B, 3, H, W) to feature maps (B, C, H / stride, W / stride)."""

    def __call__(self, image: Tensor, /) -> dict[str, Tensor]:
        """Call :meth:`forward`."""


class FeedbackBackbone(Backbone, Protocol):
    """A backbone that takes feedback maps, one for each returned stage but the finest, and adds them inside the stage.

    Attributes:
        feedback_channels: of these maps; 0 where it takes none.
        feedback: the layers behind the entrances, by stage.
    """

    feedback_channels: int

    @property
    def feedback(self) -> nn.ModuleDict: ...  # noqa: D102

    def forward(self, image: Tensor, feedback: dict[str, Tensor] | None = None, /) -> dict[str, Tensor]:
        """Map images to feature maps; ``feedback`` has (B, ``feedback_channels``, H_s, W_s) by stage name."""

    def __call__(self, image: Tensor, feedback: dict[str, Tensor] | None = None, /) -> dict[str, Tensor]:
        """Call :meth:`forward`."""


class Neck(Protocol):
    """Maps the feature maps of a backbone to others."""

    def output_shape(self, input_shape: dict[str, ShapeSpec]) -> dict[str, ShapeSpec]:
        """Return channels and stride of each output for inputs of these shapes.

        Raises:
            ValueError: the neck was not built for such inputs.
        """

    def forward(self, features: dict[str, Tensor], /) -> dict[str, Tensor]:
        """Map named feature maps to named feature maps; the input is not modified."""

    def __call__(self, features: dict[str, Tensor], /) -> dict[str, Tensor]:
        """Call :meth:`forward`."""


class PoolingNeck(Neck, Protocol):
    """A neck that pools or normalises over whole images, and therefore asks which places of a batch are padding."""

    def forward(self, features: dict[str, Tensor], padding: Tensor | None = None, /) -> dict[str, Tensor]:
        """Map named feature maps to others; ``padding`` is (B, 1, H, W) of the images, None without padding."""

    def __call__(self, features: dict[str, Tensor], padding: Tensor | None = None, /) -> dict[str, Tensor]:
        """Call :meth:`forward`."""


class AuxiliaryNeck(Protocol):
    """Maps the image and the feature maps of a backbone to feature maps of its own, in training only.

    Attributes:
        in_features: names of the backbone's feature maps that are read.
        in_channels: channels of these maps.
        out_features: names of the outputs, finest first.
        out_channels: channels of the outputs.
        strides: of the outputs in px.
    """

    @property
    def in_features(self) -> tuple[str, ...]: ...  # noqa: D102

    @property
    def in_channels(self) -> list[int]: ...  # noqa: D102

    @property
    def out_channels(self) -> list[int]: ...  # noqa: D102

    @property
    def out_features(self) -> tuple[str, ...]: ...  # noqa: D102

    @property
    def strides(self) -> tuple[int, ...]: ...  # noqa: D102

    def forward(self, image: Tensor, features: dict[str, Tensor], /) -> dict[str, Tensor]:
        """Map (B, 3, H, W) and named feature maps to those of ``out_features``; the inputs are not modified."""

    def __call__(self, image: Tensor, features: dict[str, Tensor], /) -> dict[str, Tensor]:
        """Call :meth:`forward`."""


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

    def concatenated(self) -> tuple[Tensor, Tensor, Tensor | None]:
        """Return logits, deltas and quality of all levels, (B, N, …) in the order of the priors."""
        quality = None if self.pred_quality is None else cat(self.pred_quality, dim=1)
        return cat(self.pred_logits, dim=1), cat(self.pred_deltas, dim=1), quality

    def of_image(self, image: int, level: int) -> tuple[Tensor, Tensor, Tensor | None]:
        """Return logits, deltas and quality of one level of one image, (N_l, …)."""
        quality = None if self.pred_quality is None else self.pred_quality[level][image]
        return self.pred_logits[level][image], self.pred_deltas[level][image], quality


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

    @classmethod
    def all_negative(cls, num_priors: int, device: torch.device) -> AssignResult:
        """Return the result for an image without objects: N negative priors."""
        return cls(
            torch.full((num_priors,), -1, dtype=torch.int64, device=device),
            torch.zeros(num_priors, dtype=torch.int8, device=device),
            torch.zeros(num_priors, dtype=torch.float32, device=device),
        )


class DenseHead(Protocol[TargetsT]):
    """Predicts classes and boxes at every prior of a feature pyramid.

    Type parameter:
        TargetsT: what :meth:`targets` returns and :meth:`losses` takes; :class:`DenseTargets` unless a prior may learn
        several objects.
    """

    num_classes: int

    def forward(self, features: list[Tensor], /) -> HeadOutputs:
        """Predict from L feature maps, finest first."""

    def __call__(self, features: list[Tensor], /) -> HeadOutputs:
        """Call :meth:`forward`."""

    def priors(self, features: Sequence[Tensor], *, assign: bool = False) -> GridPriors:
        """Return the priors on these maps: those of box regression, or with ``assign`` those of label assignment."""

    def targets(self, priors: GridPriors, instances: Sequence[Instances], outputs: HeadOutputs) -> TargetsT:
        """Label the priors of each image.

        Args:
            priors: those of label assignment.
            instances: ``gt_boxes``, ``gt_classes`` and, with ignore regions, ``gt_ignore`` of B images.
            outputs: of the same batch, for assigners that look at predictions.
        """

    def losses(self, outputs: HeadOutputs, priors: GridPriors, targets: TargetsT) -> dict[str, Tensor]:
        """Return the scalar losses of a batch by name; ``priors`` are those of box regression."""

    def decode(
        self, outputs: HeadOutputs, priors: GridPriors, image_sizes: Sequence[tuple[int, int]]
    ) -> list[Instances]:
        """Return the detections of each image by falling score; sizes are (height, width) in px."""
