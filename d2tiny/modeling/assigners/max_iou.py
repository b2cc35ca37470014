"""Assignment by thresholds on an overlap or a distance."""

from __future__ import annotations

import torch
from torch import Tensor

from d2tiny.modeling.assigners.base import Assigner, AssignResult, Predictions, Priors, Winners, searchable
from d2tiny.ops.block_topk import Blocks
from d2tiny.ops.boxes import aligned_iou, xyxy_to_cxcywh
from d2tiny.ops.gaussian import Score, get_score
from d2tiny.ops.grid_topk import PriorGrids
from d2tiny.ops.matches import Matches, max_score_per_gt
from d2tiny.ops.prior_search import priors_above, topk_priors
from d2tiny.utils.registry import ASSIGNER_REGISTRY

__all__ = ["MaxIoUAssigner"]


# Far more than float32 rounds, far less than anything that matters.
_SLACK = 1e-4


class _Float32:
    """IoU as Detectron2 computes it. A tiny object inside a large anchor has the same IoU with all anchors round it;
    which of them are best is then a matter of rounding, and 'the baseline' is the one with Detectron2's rounding.
    """  # noqa: D205

    def __init__(self, boxes: Tensor, gt_boxes: Tensor) -> None:
        self.boxes = boxes.float()
        self.gts = gt_boxes.float()

    def rescored(self, pairs: Matches) -> Matches:
        """The same pairs with the IoU of the float32 boxes."""
        return Matches(pairs.gt, pairs.prior, aligned_iou(self.gts[pairs.gt], self.boxes[pairs.prior]).double())


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
        gts, where = xyxy_to_cxcywh(gt_boxes), searchable(priors)
        boxes = priors if isinstance(priors, Tensor) else priors.boxes()
        exact = _Float32(boxes, gt_boxes) if self.metric == "iou" else None
        # Where nothing is negative the ignored ones need no search.
        lowest = self.neg_iou if self.neg_iou > 0 else self.pos_iou
        winners = Winners(num_priors, device)
        for pairs in priors_above(where, gts, score, lowest if exact is None else lowest * (1 - _SLACK)):
            pairs = pairs if exact is None else exact.rescored(pairs)
            winners.add(pairs.keep(pairs.score >= lowest))
        labels = torch.full((num_priors,), 0 if self.neg_iou > 0 else -1, dtype=torch.int8, device=device)
        labels[torch.isfinite(winners.score)] = -1
        best = self._best(exact, where, gts, score)
        winners.add(self._suitors(exact, boxes, gts, score, best))
        labels[winners.score >= self.pos_iou] = 1
        labels[best.prior] = 1
        positive = labels == 1
        quality = torch.where(positive, winners.score, 0.0).float()
        return AssignResult(torch.where(positive, winners.matched(), -1), labels, quality)

    def _best(self, exact: _Float32 | None, where: PriorGrids | Blocks, gts: Tensor, score: Score) -> Matches:
        """The best priors of each ground truth; by float32 IoU, candidates come from a search with some slack."""
        if not self.low_quality:
            return Matches.cat([], gts.device)
        if exact is None:
            return topk_priors(where, gts, score, 1, floor=self.min_quality)
        top = max_score_per_gt(topk_priors(where, gts, score, 1), len(gts))
        some = torch.isfinite(top).nonzero().flatten()  # an object beside all priors has no best one
        near = Matches.cat(list(priors_above(where, gts[some], score, top[some] * (1 - _SLACK))), gts.device)
        near = exact.rescored(Matches(some[near.gt], near.prior, near.score))
        best = near.score == max_score_per_gt(near, len(gts))[near.gt]
        return near.keep(best & (near.score > self.min_quality))

    @staticmethod
    def _suitors(exact: _Float32 | None, boxes: Tensor, gts: Tensor, score: Score, best: Matches) -> Matches:
        """All pairs of the low-quality priors that are as good as those that chose them: priors look for objects."""
        low, which = best.prior.unique(return_inverse=True)
        own = max_score_per_gt(Matches(which, best.prior, best.score), len(low))
        wanted = xyxy_to_cxcywh(boxes[low].double())
        parts = priors_above(Blocks.from_boxes(gts), wanted, score.swapped(), own - _SLACK * own.abs())
        found = Matches.cat(list(parts), gts.device)
        pairs = Matches(found.prior, low[found.gt], found.score)
        return pairs if exact is None else exact.rescored(pairs)
