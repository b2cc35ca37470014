"""SimOTA (Ge et al., YOLOX, 2021): each object selects the priors of lowest cost near its centre, a dynamic number."""

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
from d2tiny.ops.boxes import aligned_iou, xyxy_to_cxcywh
from d2tiny.ops.gaussian import Score
from d2tiny.ops.matches import Matches, keep_topk, rank_by_score
from d2tiny.ops.prior_search import priors_above
from d2tiny.utils.registry import ASSIGNER_REGISTRY

__all__ = ["SimOTAAssigner"]

_MIN_LOG = -100.0  # torch's binary_cross_entropy clamps there


@ASSIGNER_REGISTRY.register()
class SimOTAAssigner(Assigner):
    """Candidates of an object are the priors whose centres are less than ``radius`` strides from its own (both axes).

    Their cost is ``Σ_c BCE(√score_c, [c = class]) − 3 ln(IoU + 1e-8)``. An object selects the k candidates of lowest
    cost, where k is the sum of its ten largest IoUs, rounded down, at least 1 (dynamic k). A prior that several objects
    selected goes to the one of lowest cost. ``quality`` is the IoU of the predicted box, the target of the class score.

    There are at most nine candidates on a level (with the default radius), so cost and memory grow with the number of
    objects alone. An object without candidates (its centre is outside the image) gets no prior.

    Differences from the released code: k is the sum of IoUs of the object's own candidates (there also of priors near
    other objects), and only its own candidates can be selected (there others at a cost of 10⁶ when k exceeds them);
    equal costs have a defined order.
    """

    def __init__(
        self, *, radius: float = 1.5, topk: int = 10, iou_weight: float = 3.0, ignore_iof_thresh: float = 0.5
    ) -> None:
        """Set the rule.

        Args:
            radius: half the side of the centre region, in strides.
            topk: number of largest IoUs whose sum gives k.
            iou_weight: weight of the IoU term of the cost.
            ignore_iof_thresh: see :class:`Assigner`.

        Raises:
            ValueError: a setting outside its range.
        """
        super().__init__(ignore_iof_thresh=ignore_iof_thresh)
        if radius <= 0 or topk < 1 or iou_weight < 0:
            raise ValueError(
                f"SimOTAAssigner: need radius > 0, topk >= 1, iou_weight >= 0, got {radius}, {topk}, {iou_weight}."
            )
        self.radius, self.topk, self.iou_weight = radius, topk, iou_weight

    def _assign(self, priors: Priors, gt_boxes: Tensor, predictions: Predictions | None) -> AssignResult:
        pred, num_priors = require_predictions("SimOTAAssigner", predictions), len(priors)
        index, gts = spatial_index(priors), xyxy_to_cxcywh(gt_boxes)
        pairs = Matches.cat(list(priors_above(index, gts, self._center_region(), 1e-6)), gt_boxes.device)
        iou = aligned_iou(pred.boxes[pairs.prior], gt_boxes[pairs.gt].float()).double()
        cost = self._class_cost(pred, pairs) - self.iou_weight * torch.log(iou + 1e-8)
        candidates = BestMatches(num_priors, gt_boxes.device)
        candidates.update(Matches(pairs.gt, pairs.prior, -cost))
        selected = keep_topk(Matches(pairs.gt, pairs.prior, -cost), self._dynamic_k(pairs, iou, len(gt_boxes)))
        matched_idxs = resolve_conflicts(selected, candidates, num_priors)
        positive = matched_idxs >= 0
        quality = torch.zeros(num_priors, device=gt_boxes.device)
        quality[positive] = aligned_iou(pred.boxes[positive], gt_boxes[matched_idxs[positive]].float())
        return build_result(matched_idxs, quality)

    def _center_region(self) -> Score:
        """Return a score: how far a prior, a square of the stride, is inside the object's centre region, px."""

        def inside(dx: Tensor, dy: Tensor, pw: Tensor, ph: Tensor, gw: Tensor, gh: Tensor) -> Tensor:
            return torch.minimum(self.radius * pw - dx.abs(), self.radius * ph - dy.abs()) + 0 * gw

        return bounded_by_largest_prior(inside)

    @staticmethod
    def _class_cost(pred: Predictions, pairs: Matches) -> Tensor:
        """Return Σ_c BCE(√score_c, [c = class of the object]) of each pair, (P,)."""
        root = pred.scores.double().sqrt()
        log_p, log_not_p = root.log().clamp(min=_MIN_LOG), torch.log1p(-root).clamp(min=_MIN_LOG)
        cls = pred.gt_classes[pairs.gt]
        return -log_not_p.sum(dim=1)[pairs.prior] + log_not_p[pairs.prior, cls] - log_p[pairs.prior, cls]

    def _dynamic_k(self, pairs: Matches, iou: Tensor, num_gts: int) -> Tensor:
        """Return the number of priors that each object selects, (G,)."""
        best, rank = rank_by_score(Matches(pairs.gt, pairs.prior, iou))
        best = best.keep(rank < self.topk)
        total = torch.zeros(num_gts, dtype=iou.dtype, device=iou.device).scatter_add_(0, best.gt, best.score)
        return total.long().clamp(min=1)
