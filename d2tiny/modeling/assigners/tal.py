"""Task-aligned assignment (Feng et al., TOOD, 2021) as in YOLO11, with an option for the tiniest objects."""

from __future__ import annotations

import torch
from torch import Tensor

from d2tiny.modeling.assigners.base import Assigner, AssignResult, Predictions, Priors
from d2tiny.modeling.assigners.helpers import (
    BestMatches,
    bounded_by_largest_prior,
    build_result,
    require_predictions,
    resolve_conflicts,
    spatial_index,
)
from d2tiny.ops.boxes import aligned_ciou, xyxy_to_cxcywh
from d2tiny.ops.gaussian import Score
from d2tiny.ops.matches import Matches, keep_topk, max_score_per_gt
from d2tiny.ops.prior_search import priors_above
from d2tiny.utils.registry import ASSIGNER_REGISTRY

__all__ = ["TALAssigner"]

_MIN_INSIDE = 1e-9  # px, as in the released code


@ASSIGNER_REGISTRY.register()
class TALAssigner(Assigner):
    """An object selects the ``topk`` best aligned of the priors whose centres lie inside it.

    The alignment is ``score^α · max(CIoU, 0)^β``. A prior that several objects selected goes to the object with the
    largest CIoU among all that contain its centre. ``quality`` is the target of the class score: ``alignment / largest
    alignment of the object · largest CIoU of the object``, over the object's positives.

    **Tiny objects.** An object under 8 px may contain no centre of the finest level (stride 8) and then has no
    positive. ``min_candidate_size`` enlarges objects to that many px, about their centres, for the selection of
    candidates only.

    Candidates are searched part by part on the grid: no matrix of objects and priors is ever held.

    Differences from the released code: priors with alignment 0 are negative (positive with target and weight 0 there);
    equal alignments have a defined order.
    """

    def __init__(
        self,
        *,
        topk: int = 10,
        alpha: float = 0.5,
        beta: float = 6.0,
        min_candidate_size: float = 0.0,
        ignore_iof_thresh: float = 0.5,
    ) -> None:
        """Set the rule.

        Args:
            topk: number of priors that an object selects.
            alpha: exponent of the class score.
            beta: exponent of the CIoU.
            min_candidate_size: px, see above; 0 is the released rule, the finest stride (8) is recommended.
            ignore_iof_thresh: see :class:`Assigner`.

        Raises:
            ValueError: a setting outside its range.
        """
        super().__init__(ignore_iof_thresh=ignore_iof_thresh)
        if topk < 1 or alpha < 0 or beta < 0 or min_candidate_size < 0:
            raise ValueError(
                "TALAssigner: need topk >= 1, alpha >= 0, beta >= 0, min_candidate_size >= 0, got "
                f"{topk}, {alpha}, {beta}, {min_candidate_size}."
            )
        self.topk, self.alpha, self.beta = topk, alpha, beta
        self.min_candidate_size = min_candidate_size

    def _assign(self, priors: Priors, gt_boxes: Tensor, predictions: Predictions | None) -> AssignResult:
        pred, num_priors = require_predictions("TALAssigner", predictions), len(priors)
        gts = xyxy_to_cxcywh(gt_boxes)
        # Slightly larger, so that an object exactly between two centres contains both.
        enlarged = torch.where(gts[:, 2:] < self.min_candidate_size, self.min_candidate_size * (1 + 1e-6), gts[:, 2:])
        candidates, parts = BestMatches(num_priors, gt_boxes.device), []
        enlarged_gts = torch.cat((gts[:, :2], enlarged), dim=1)
        for pairs in priors_above(spatial_index(priors), enlarged_gts, _inside(), _MIN_INSIDE):
            overlap, alignment = self._overlap_and_alignment(pred, gt_boxes, pairs)
            candidates.update(Matches(pairs.gt, pairs.prior, overlap))
            parts.append(keep_topk(Matches(pairs.gt, pairs.prior, alignment).keep(alignment > 0), self.topk))
        selected = keep_topk(Matches.cat(parts, gt_boxes.device), self.topk)
        matched_idxs = resolve_conflicts(selected, candidates, num_priors)
        prior = (matched_idxs >= 0).nonzero().flatten()
        positives = Matches(matched_idxs[prior], prior, torch.zeros_like(prior, dtype=torch.float64))
        overlap, alignment = self._overlap_and_alignment(pred, gt_boxes, positives)
        max_alignment = max_score_per_gt(Matches(positives.gt, prior, alignment), len(gts))[positives.gt]
        max_overlap = max_score_per_gt(Matches(positives.gt, prior, overlap), len(gts))[positives.gt]
        quality = torch.zeros(num_priors, device=gt_boxes.device)
        quality[prior] = (alignment / max_alignment.clamp(min=1e-300) * max_overlap).float()
        return build_result(matched_idxs, quality)

    def _overlap_and_alignment(self, pred: Predictions, gt_boxes: Tensor, pairs: Matches) -> tuple[Tensor, Tensor]:
        """Return max(CIoU, 0) and alignment of each pair, (P,), in float64, where small powers do not underflow."""
        overlap = aligned_ciou(pred.boxes[pairs.prior].double(), gt_boxes[pairs.gt]).clamp(min=0)
        score = pred.scores[pairs.prior, pred.gt_classes[pairs.gt]].double()
        return overlap, score**self.alpha * overlap**self.beta


def _inside() -> Score:
    """Return a score: how far the centre of a prior is inside an object, px."""

    def inside(dx: Tensor, dy: Tensor, pw: Tensor, ph: Tensor, gw: Tensor, gh: Tensor) -> Tensor:
        return torch.minimum(gw / 2 - dx.abs(), gh / 2 - dy.abs()) + 0 * pw

    return bounded_by_largest_prior(inside)
