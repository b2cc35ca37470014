"""Hierarchical label assignment of RFLA (Xu et al., ECCV 2022)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
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

__all__ = ["HLAAssigner"]

# Priors that reach this score with some ground truth without being selected are ignored (released code).
IGNORE_SCORE = 0.8


@ASSIGNER_REGISTRY.register()
class HLAAssigner(Assigner):
    """Each ground truth selects its k₁ best priors, then its k₂ best priors after all priors shrink by β.

    Stage 1 scores the priors as they are. A prior that several ground truths select goes to the *last* of them, and
    all priors that tie with the k-th best are selected (the released code's rule). Stage 2 does the same with shrunk
    priors and only matches priors that stage 1 left unmatched. A prior that is in neither but scores at least 0.8 in
    stage 2 is ignored; every other prior is negative. There is no overlap threshold, so an 8-pixel object gets priors
    too.

    On :class:`GridPriors` the search is exact in O(G) (see :mod:`d2tiny.ops.grid_topk`); on plain boxes
    it visits few blocks (:mod:`d2tiny.ops.block_topk`). Scores are float64, so ties do not come from float32 rounding.

    Differences from the paper: none known. Differences from the released code: its in-place shrink, which changes the
    regression anchors, is not reproduced (docs/papers/rfla.md); with ``giou`` it ignores all priors whose best score is
    negative, here they are negative; it gives priors to objects without area, and to those whose scores are all 0.
    """

    def __init__(
        self,
        *,
        metric: str = "kld",
        topk: Sequence[int] = (3, 1),
        ratio: float = 0.9,
        tie: str = "value",
        ignore_iof_thresh: float = 0.5,
    ) -> None:
        """Set the assignment rule.

        Args:
            metric: ``kld``, ``wd``, ``giou``, or the variants ``kld_10``, ``kld_exp``.
            topk: (k₁, k₂); k₂ = 0 switches stage 2 off.
            ratio: β, by which stage 2 shrinks the priors, in (0, 1].
            tie: ``value`` selects all priors that tie with the k-th best, ``index`` those with the lowest indices.
            ignore_iof_thresh: see :class:`Assigner`.

        Raises:
            ValueError: a setting outside its range.
        """
        super().__init__(ignore_iof_thresh=ignore_iof_thresh)
        get_score(metric, error_prefix="HLAAssigner: ")
        if len(topk) != 2 or topk[0] < 1 or topk[1] < 0:
            raise ValueError(f"HLAAssigner: topk must be (>= 1, >= 0), got {tuple(topk)}.")
        if not 0 < ratio <= 1:
            raise ValueError(f"HLAAssigner: ratio must be in (0, 1], got {ratio}.")
        check_tie_rule("HLAAssigner", tie)
        self.metric = metric
        self.topk = tuple(int(k) for k in topk)
        self.ratio = float(ratio)
        self.tie = tie

    def _assign(self, priors: Priors, gt_boxes: Tensor, predictions: Predictions | None) -> AssignResult:
        num_priors = len(priors)
        score = get_score(self.metric)
        gts = xyxy_to_cxcywh(gt_boxes)

        index = spatial_index(priors)
        shrunk = score.with_scaled_priors(self.ratio)
        best1, best2 = topk_priors(index, gts, score, self.topk[0]), topk_priors(index, gts, shrunk, self.topk[1])
        if self.tie == "index":
            best1, best2 = keep_topk(best1, self.topk[0]), keep_topk(best2, self.topk[1])
        matched1, quality1 = match_to_last(best1, num_priors)
        matched2, quality2 = match_to_last(best2, num_priors)
        use_second = (matched1 < 0) & (matched2 >= 0)
        matched_idxs = torch.where(use_second, matched2, matched1)
        quality = torch.where(use_second, quality2, quality1)
        return build_result(matched_idxs, quality, priors_reaching(index, gts, shrunk, IGNORE_SCORE, num_priors))
