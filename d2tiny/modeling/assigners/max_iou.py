"""Assignment by thresholds on an overlap or a distance."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from d2tiny.modeling.assigners.base import Assigner, AssignResult, Priors, best_winner, empty_result, searchable
from d2tiny.ops.boxes import aligned_iou, chunks, pairwise_iou, xyxy_to_cxcywh
from d2tiny.ops.gaussian import ScoreFn, get_score
from d2tiny.ops.grid_topk import Matches, score_pairs, search
from d2tiny.utils.registry import ASSIGNER_REGISTRY

__all__ = ["MaxIoUAssigner"]


# Far more than float32 rounds, far less than anything matters.
_SLACK = 1e-4


class _Float32:
    """IoU as Detectron2 computes it. A tiny object inside a large anchor has the same IoU with all anchors round it;
    which of them are best is then a matter of rounding, and 'the baseline' is the one with Detectron2's rounding.
    """  # noqa: D205

    def __init__(self, priors: Priors, gt_boxes: Tensor) -> None:
        self.boxes = (priors if isinstance(priors, Tensor) else priors.boxes()).float()
        self.gts = gt_boxes.float()

    def rescored(self, pairs: Matches) -> Matches:
        """The same pairs with the IoU of the float32 boxes."""
        return Matches(pairs.gt, pairs.prior, aligned_iou(self.gts[pairs.gt], self.boxes[pairs.prior]).double())

    def all_of(self, index: Tensor) -> Tensor:
        """IoU (P, G) of some priors with all objects."""
        return pairwise_iou(self.gts, self.boxes[index]).T.double()


def _best_of_each(pairs: Matches, groups: int) -> Tensor:
    """(G,) highest score of each ground truth; -inf where it has no pair."""
    top = torch.full((groups,), -torch.inf, dtype=torch.float64, device=pairs.score.device)
    return top.scatter_reduce_(0, pairs.gt, pairs.score, "amax")


@ASSIGNER_REGISTRY.register()
class MaxIoUAssigner(Assigner):
    """A prior is positive when its best score reaches ``pos_iou``, negative under ``neg_iou``, ignored between.

    With ``low_quality`` the best priors of every ground truth are positive whatever their score (ties all win), as
    Detectron2's ``Matcher(allow_low_quality_matches=True)``; they too go to the ground truth that *they* fit best, the
    first of equal ones. Differences from it: a ground truth whose best score is not above ``min_quality`` makes nothing
    positive (there a ground truth without any overlap makes every such prior positive), and cost and memory are O(G) on
    :class:`GridPriors`. IoU is that of float32 boxes, as Detectron2's, so that ties are the same; the other scores are
    float64. With ``metric="nwd"`` and ``min_quality=0.3`` it is the assigner of NWD (Xu et al., 2022), with
    ``dotd`` that of DotD.
    """

    def __init__(
        self,
        *,
        pos_iou: float = 0.7,
        neg_iou: float = 0.3,
        low_quality: bool = True,
        metric: str = "iou",
        constant: float | None = None,
        min_quality: float = 0.0,
        ignore_iof_thresh: float = 0.5,
    ) -> None:
        """Set the thresholds.

        Args:
            pos_iou: lowest score of a positive, in (0, 1].
            neg_iou: score under which a prior is negative, in [0, pos_iou].
            low_quality: whether the best priors of a ground truth are always positive.
            metric: ``iou``, ``giou``, ``nwd``, ``dotd`` or another of :data:`d2tiny.ops.gaussian.SCORES`.
            constant: of ``nwd`` and ``dotd``, px.
            min_quality: a best prior must score more than this to be positive by ``low_quality`` alone.
            ignore_iof_thresh: see :class:`Assigner`.

        Raises:
            ValueError: thresholds out of order, or an unknown metric.
        """
        super().__init__(ignore_iof_thresh=ignore_iof_thresh)
        if not 0 <= neg_iou <= pos_iou <= 1:
            raise ValueError(f"MaxIoUAssigner: need 0 <= neg_iou <= pos_iou <= 1, got {neg_iou}, {pos_iou}.")
        get_score(metric, constant)
        self.pos_iou = pos_iou
        self.neg_iou = neg_iou
        self.low_quality = low_quality
        self.metric = metric
        self.constant = constant
        self.min_quality = min_quality

    def _assign(self, priors: Priors, gt_boxes: Tensor, predictions: Any) -> AssignResult:
        num_priors, device = len(priors), gt_boxes.device
        if num_priors == 0 or len(gt_boxes) == 0:
            return empty_result(num_priors, device)
        score = get_score(self.metric, self.constant)
        gts, where = xyxy_to_cxcywh(gt_boxes), searchable(priors)
        # Where nothing is negative the ignored ones need no search.
        lowest = self.neg_iou if self.neg_iou > 0 else self.pos_iou
        exact = _Float32(priors, gt_boxes) if self.metric == "iou" else None
        if exact is None:
            best, fitting = search(where, gts, score, int(self.low_quality), lowest)
        else:
            best, fitting = self._by_float32(exact, where, gts, score, lowest)
        labels = torch.full((num_priors,), 0 if self.neg_iou > 0 else -1, dtype=torch.int8, device=device)
        labels[fitting.prior] = -1
        low = best.prior[best.score > self.min_quality].unique()
        pairs = Matches.cat([fitting, self._others(exact, where, gts, score, low, lowest)], device)
        matched, quality = best_winner(pairs, num_priors)
        labels[quality >= self.pos_iou] = 1
        labels[low] = 1
        positive = labels == 1
        return AssignResult(torch.where(positive, matched, -1), labels, torch.where(positive, quality, 0.0).float())

    def _by_float32(
        self, exact: _Float32, where: Any, gts: Tensor, score: ScoreFn, lowest: float
    ) -> tuple[Matches, Matches]:
        """The best and the fitting pairs by float32 IoU: candidates come from a search with some slack."""
        _, fitting = search(where, gts, score, 0, lowest * (1 - _SLACK))
        fitting = exact.rescored(fitting)
        keep = fitting.score >= lowest
        fitting = Matches(fitting.gt[keep], fitting.prior[keep], fitting.score[keep])
        if not self.low_quality:
            return Matches.cat([], gts.device), fitting
        top = _best_of_each(search(where, gts, score, 1)[0], len(gts))
        some = (top > 0).nonzero().flatten()  # an object beside all priors has no best one
        _, near = search(where, gts[some], score, 0, top[some] * (1 - _SLACK))
        near = exact.rescored(Matches(some[near.gt], near.prior, near.score))
        best = near.score == _best_of_each(near, len(gts))[near.gt]
        return Matches(near.gt[best], near.prior[best], near.score[best]), fitting

    @staticmethod
    def _others(exact: _Float32 | None, where: Any, gts: Tensor, score: ScoreFn, low: Tensor, lowest: float) -> Matches:
        """The best ground truth of each low-quality prior that fits none: only these need all ground truths."""
        parts = []
        for part in chunks(len(low), len(gts)):
            prior = low[part]
            value = score_pairs(where, gts, score, prior) if exact is None else exact.all_of(prior)  # (p, G)
            top = value.amax(dim=1, keepdim=True)
            gt = (value == top).int().argmax(dim=1)
            parts.append(Matches(gt, prior, top[:, 0]))
        found = Matches.cat(parts, gts.device)
        rest = found.score < lowest
        return Matches(found.gt[rest], found.prior[rest], found.score[rest])
