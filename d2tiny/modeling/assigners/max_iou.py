"""Assignment by thresholds on an overlap or a distance."""

from __future__ import annotations

import torch
from torch import Tensor

from d2tiny.modeling.assigners.base import Assigner, AssignResult, Predictions, Priors
from d2tiny.modeling.assigners.helpers import BestMatches, spatial_index
from d2tiny.ops.block_topk import Blocks
from d2tiny.ops.boxes import aligned_iou, xyxy_to_cxcywh
from d2tiny.ops.gaussian import Score, get_score
from d2tiny.ops.grid_topk import PriorGrids
from d2tiny.ops.matches import Matches, max_score_per_gt
from d2tiny.ops.prior_search import priors_above, topk_priors
from d2tiny.utils.registry import ASSIGNER_REGISTRY

__all__ = ["MaxIoUAssigner"]


# Relative tolerance of the search: far more than float32 rounding, far less than a difference that matters.
_SLACK = 1e-4


class _Float32:
    """IoU of float32 boxes, as Detectron2 computes it.

    A tiny object inside large anchors has the same IoU with all of them. Rounding then decides which of them is best,
    and a baseline must have Detectron2's rounding.
    """

    def __init__(self, boxes: Tensor, gt_boxes: Tensor) -> None:
        self.boxes = boxes.float()
        self.gts = gt_boxes.float()

    def rescored(self, pairs: Matches) -> Matches:
        """Return the same pairs with the IoU of the float32 boxes as score."""
        return Matches(pairs.gt, pairs.prior, aligned_iou(self.gts[pairs.gt], self.boxes[pairs.prior]).double())


@ASSIGNER_REGISTRY.register()
class MaxIoUAssigner(Assigner):
    """A prior is positive when its best score reaches ``pos_iou``, negative under ``neg_iou``, ignored between.

    With ``low_quality`` the best priors of every ground truth are positive whatever their score (all that tie), as with
    Detectron2's ``Matcher(allow_low_quality_matches=True)``; they too are matched to the ground truth that is best for
    *them*, the first of equal ones. Differences from it: a ground truth whose best score is not above ``min_quality``
    makes no prior positive (there, a ground truth that overlaps no prior makes all of them positive), and cost and
    memory are O(G) on :class:`GridPriors`. IoU is computed on float32 boxes as in Detectron2, so that ties are the
    same; the other scores are float64. With ``metric="nwd"`` and ``min_quality=0.3`` it is the assigner of NWD (Xu et
    al., 2022), with ``metric="dotd"`` that of DotD.
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
            constant: C of ``nwd``, S of ``dotd``, px.
            min_quality: a best prior must score more than this to be positive by ``low_quality`` alone.
            ignore_iof_thresh: see :class:`Assigner`.

        Raises:
            ValueError: thresholds outside their range, or an unknown metric.
        """
        super().__init__(ignore_iof_thresh=ignore_iof_thresh)
        if not 0 <= neg_iou <= pos_iou <= 1:
            raise ValueError(f"MaxIoUAssigner: need 0 <= neg_iou <= pos_iou <= 1, got {neg_iou}, {pos_iou}.")
        get_score(metric, constant, error_prefix="MaxIoUAssigner: ")
        self.pos_iou = pos_iou
        self.neg_iou = neg_iou
        self.low_quality = low_quality
        self.metric = metric
        self.constant = constant
        self.min_quality = min_quality

    def _assign(self, priors: Priors, gt_boxes: Tensor, predictions: Predictions | None) -> AssignResult:
        num_priors, device = len(priors), gt_boxes.device
        score = get_score(self.metric, self.constant)
        gts, index = xyxy_to_cxcywh(gt_boxes), spatial_index(priors)
        boxes = priors if isinstance(priors, Tensor) else priors.boxes()
        exact = _Float32(boxes, gt_boxes) if self.metric == "iou" else None
        # With neg_iou = 0 nothing is negative, so priors below pos_iou need no search: they are ignored.
        lowest = self.neg_iou if self.neg_iou > 0 else self.pos_iou
        best_matches = BestMatches(num_priors, device)
        for pairs in priors_above(index, gts, score, lowest if exact is None else lowest * (1 - _SLACK)):
            pairs = pairs if exact is None else exact.rescored(pairs)
            best_matches.update(pairs.keep(pairs.score >= lowest))
        labels = torch.full((num_priors,), 0 if self.neg_iou > 0 else -1, dtype=torch.int8, device=device)
        labels[torch.isfinite(best_matches.score)] = -1
        low_quality = self._low_quality_matches(exact, index, gts, score)
        best_matches.update(self._alternatives(exact, boxes, gts, score, low_quality))
        labels[best_matches.score >= self.pos_iou] = 1
        labels[low_quality.prior] = 1
        positive = labels == 1
        quality = torch.where(positive, best_matches.score, 0.0).float()
        return AssignResult(torch.where(positive, best_matches.matched_idxs(), -1), labels, quality)

    def _low_quality_matches(
        self, exact: _Float32 | None, index: PriorGrids | Blocks, gts: Tensor, score: Score
    ) -> Matches:
        """Return the best priors of each ground truth; by float32 IoU, they are among those of a tolerant search."""
        if not self.low_quality:
            return Matches.cat([], gts.device)
        if exact is None:
            return topk_priors(index, gts, score, 1, floor=self.min_quality)
        top = max_score_per_gt(topk_priors(index, gts, score, 1), len(gts))
        overlapping = torch.isfinite(top).nonzero().flatten()  # a ground truth that overlaps no prior has no best one
        pairs = priors_above(index, gts[overlapping], score, top[overlapping] * (1 - _SLACK))
        near = Matches.cat(list(pairs), gts.device)
        near = exact.rescored(Matches(overlapping[near.gt], near.prior, near.score))
        best = near.score == max_score_per_gt(near, len(gts))[near.gt]
        return near.keep(best & (near.score > self.min_quality))

    @staticmethod
    def _alternatives(
        exact: _Float32 | None, boxes: Tensor, gts: Tensor, score: Score, low_quality: Matches
    ) -> Matches:
        """Return all pairs of the priors in ``low_quality`` that score at least as much as their pairs there.

        Priors and ground truths exchange their roles in this search.
        """
        idxs, group = low_quality.prior.unique(return_inverse=True)
        best = max_score_per_gt(Matches(group, low_quality.prior, low_quality.score), len(idxs))
        priors = xyxy_to_cxcywh(boxes[idxs].double())
        parts = priors_above(Blocks.from_boxes(gts), priors, score.swapped(), best - _SLACK * best.abs())
        found = Matches.cat(list(parts), gts.device)
        pairs = Matches(found.prior, idxs[found.gt], found.score)
        return pairs if exact is None else exact.rescored(pairs)
