"""Ranking-based assignment of NWD-RKA (Xu et al., ISPRS 2022)."""

from __future__ import annotations

from torch import Tensor

from d2tiny.modeling.assigners.base import Assigner, AssignResult, Predictions, Priors
from d2tiny.modeling.assigners.helpers import (
    build_result,
    check_tie_rule,
    match_to_last,
    priors_reaching,
    spatial_index,
)
from d2tiny.ops.boxes import xyxy_to_cxcywh
from d2tiny.ops.gaussian import get_score
from d2tiny.ops.matches import keep_topk
from d2tiny.ops.prior_search import topk_priors
from d2tiny.utils.registry import ASSIGNER_REGISTRY

__all__ = ["RKAAssigner"]


@ASSIGNER_REGISTRY.register()
class RKAAssigner(Assigner):
    """Each ground truth selects its k best priors by NWD; others above a threshold are ignored, the rest negative.

    A prior that several ground truths select goes to the *last* of them, and all priors that tie with the k-th best are
    selected (the released code's rule). Differences from the released code: with ``giou`` it ignores all priors whose
    best score is negative, here they are negative; it gives priors to objects without area, and to those whose scores
    are all 0; its constant is 12.7.
    """

    def __init__(
        self,
        *,
        topk: int = 2,
        neg_thresh: float = 0.3,
        metric: str = "nwd",
        constant: float | None = None,
        tie: str = "value",
        ignore_iof_thresh: float = 0.5,
    ) -> None:
        """Set the assignment rule.

        Args:
            topk: k; 2 in the paper's Faster R-CNN, 3 in its Cascade R-CNN and DetectoRS.
            neg_thresh: score under which a prior that was not selected is negative, in (0, 1].
            metric: ``nwd`` or another of :data:`d2tiny.ops.gaussian.SCORES`.
            constant: C of NWD, px.
            tie: ``value`` selects all priors that tie with the k-th best, ``index`` those with the lowest indices.
            ignore_iof_thresh: see :class:`Assigner`.

        Raises:
            ValueError: a setting outside its range.
        """
        super().__init__(ignore_iof_thresh=ignore_iof_thresh)
        get_score(metric, constant, error_prefix="RKAAssigner: ")
        check_tie_rule("RKAAssigner", tie)
        if topk < 1 or not 0 < neg_thresh <= 1:
            raise ValueError(f"RKAAssigner: need topk >= 1 and 0 < neg_thresh <= 1, got {topk}, {neg_thresh}.")
        self.topk = int(topk)
        self.neg_thresh = neg_thresh
        self.metric = metric
        self.constant = constant
        self.tie = tie

    def _assign(self, priors: Priors, gt_boxes: Tensor, predictions: Predictions | None) -> AssignResult:
        num_priors = len(priors)
        score = get_score(self.metric, self.constant)
        index, gts = spatial_index(priors), xyxy_to_cxcywh(gt_boxes)
        best = topk_priors(index, gts, score, self.topk)
        if self.tie == "index":
            best = keep_topk(best, self.topk)
        matched_idxs, quality = match_to_last(best, num_priors)
        return build_result(matched_idxs, quality, priors_reaching(index, gts, score, self.neg_thresh, num_priors))
