"""The contract of label assignment to dense priors."""

from __future__ import annotations

import abc
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from d2tiny.modeling.contracts import AssignResult
from d2tiny.modeling.priors.grid import GridPriors
from d2tiny.ops.boxes import max_iof
from d2tiny.utils.tensors import require_boxes

__all__ = ["AssignResult", "Assigner", "Predictions", "Priors"]

Priors = GridPriors | Tensor


@dataclass(frozen=True)
class Predictions:
    """Current predictions of one image, for assigners that look at them (SimOTA, TAL).

    Attributes:
        boxes: (N, 4) XYXY in px.
        scores: (N, K) in [0, 1], of each class.
        gt_classes: (G,) int64, classes of the ground truths, whose scores are compared.
    """

    boxes: Tensor
    scores: Tensor
    gt_classes: Tensor


class Assigner(abc.ABC):
    """Labels the priors of one image. A pure function of its inputs: nothing is modified or remembered.

    A subclass implements :meth:`_assign`; :mod:`d2tiny.modeling.assigners.helpers` has building blocks for it.
    """

    def __init__(self, *, ignore_iof_thresh: float = 0.5) -> None:
        """Set what all assigners share.

        Args:
            ignore_iof_thresh: a prior that is not positive is ignored when more than this share of its own area
                lies in one ignore region; 1 or more switches it off.
        """
        self.ignore_iof_thresh = ignore_iof_thresh

    @torch.no_grad()
    def __call__(
        self,
        priors: Priors,
        gt_boxes: Tensor,
        *,
        ignore_boxes: Tensor | None = None,
        predictions: Predictions | None = None,
    ) -> AssignResult:
        """Label the priors.

        Args:
            priors: a :class:`GridPriors` or an (N, 4) XYXY tensor in px. Priors that are not
                :meth:`~GridPriors.usable` take no part, as if they were absent; they are ignored.
            gt_boxes: (G, 4) XYXY in px; G = 0 gives all negatives. A box without area gets no prior.
            ignore_boxes: (R, 4) XYXY, ignore regions.
            predictions: for assigners that look at the model's output; the others do not use them.

        Raises:
            ValueError: boxes of a wrong shape or with NaN.
        """
        require_boxes(gt_boxes, "gt_boxes")
        if isinstance(priors, Tensor):
            require_boxes(priors, "priors")
        gt_boxes = gt_boxes.detach().double()
        valid = ((gt_boxes[:, 2:] - gt_boxes[:, :2]) > 0).all(dim=1).nonzero().flatten()
        if len(priors) and len(valid):
            if predictions is not None:
                predictions = replace(predictions, gt_classes=predictions.gt_classes[valid])
            result = self._assign(priors, gt_boxes[valid], predictions)
        else:
            result = AssignResult.all_negative(len(priors), gt_boxes.device)
        matched = result.matched_idxs
        if len(valid) != len(gt_boxes) and len(valid):
            matched = torch.where(matched >= 0, valid[matched.clamp(min=0)], matched)
        labels = self._with_ignored(result.labels, priors, ignore_boxes)
        usable = priors.usable() if isinstance(priors, GridPriors) else None
        if usable is not None:
            labels = torch.where(usable, labels, -1)
        return AssignResult(matched, labels, result.quality)

    def _with_ignored(self, labels: Tensor, priors: Priors, ignore_boxes: Tensor | None) -> Tensor:
        """Return the labels (N,) with negatives in ignore regions ignored."""
        if ignore_boxes is None or not len(ignore_boxes) or self.ignore_iof_thresh >= 1:
            return labels
        require_boxes(ignore_boxes, "ignore_boxes")
        boxes = priors if isinstance(priors, Tensor) else priors.boxes()
        inside = max_iof(boxes.float(), ignore_boxes.float()) > self.ignore_iof_thresh
        return torch.where(inside & (labels == 0), torch.full_like(labels, -1), labels)

    @abc.abstractmethod
    def _assign(self, priors: Priors, gt_boxes: Tensor, predictions: Predictions | None) -> AssignResult:
        """Label the priors of an image with N > 0 and G > 0; ``gt_boxes`` are float64 and have an area."""

    def __repr__(self) -> str:
        settings = ", ".join(f"{k}={v!r}" for k, v in vars(self).items() if not k.startswith("_"))
        return f"{type(self).__name__}({settings})"
