"""SimOTA (Ge et al., YOLOX, 2021): each object takes the cheapest places round its centre, as many as fit it well."""

from __future__ import annotations

import torch
from torch import Tensor

from d2tiny.modeling.assigners.base import (
    Assigner,
    AssignResult,
    Predictions,
    Priors,
    Winners,
    need_predictions,
    one_each,
    searchable,
)
from d2tiny.ops.boxes import aligned_iou, xyxy_to_cxcywh
from d2tiny.ops.gaussian import Score
from d2tiny.ops.matches import Matches, keep_topk, rank_by_score
from d2tiny.ops.prior_search import priors_above
from d2tiny.utils.registry import ASSIGNER_REGISTRY

__all__ = ["SimOTAAssigner"]

_LEAST_LOG = -100.0  # as binary_cross_entropy clamps


@ASSIGNER_REGISTRY.register()
class SimOTAAssigner(Assigner):
    """Candidates of an object are the places less than ``radius`` strides from its centre (along both axes).

    Their cost is ``Σ_c BCE(√score_c, [c = class]) − 3 ln(IoU + 1e-8)``. An object takes the k cheapest, where k is
    the sum of its ten largest IoUs, rounded down, at least 1. A place that several chose goes to the candidate with
    the lowest cost. ``quality`` is the IoU of the predicted box, which the class is to learn.

    There are at most nine candidates a level (with the default radius), so that cost and memory grow with the objects
    alone and no number of objects is too large. An object without candidates (its centre is outside the image) gets no
    place.

    Differences from the released code: the IoUs that make k are those of the object's own candidates (there also those
    of places near other objects), and only its own candidates can be taken (there others at a cost of 10⁶ when k
    exceeds them); equal costs have a defined order.
    """

    def __init__(
        self, *, radius: float = 1.5, topk: int = 10, iou_weight: float = 3.0, ignore_iof_thresh: float = 0.5
    ) -> None:
        """Set the rule.

        Args:
            radius: of the zone round the centre, in strides.
            topk: largest number of IoUs whose sum is k.
            iou_weight: of the IoU's part of the cost.
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
        said, num_priors = need_predictions("SimOTAAssigner", predictions), len(priors)
        pairs = Matches.cat(
            list(priors_above(searchable(priors), xyxy_to_cxcywh(gt_boxes), self._zone(), 1e-6)), gt_boxes.device
        )
        iou = aligned_iou(said.boxes[pairs.prior], gt_boxes[pairs.gt].float()).double()
        cost = self._class_cost(said, pairs) - self.iou_weight * torch.log(iou + 1e-8)
        contest = Winners(num_priors, gt_boxes.device)
        contest.add(Matches(pairs.gt, pairs.prior, -cost))
        chosen = keep_topk(Matches(pairs.gt, pairs.prior, -cost), self._how_many(pairs, iou, len(gt_boxes)))
        matched = one_each(chosen, contest, num_priors)
        positive = matched >= 0
        quality = torch.zeros(num_priors, device=gt_boxes.device)
        quality[positive] = aligned_iou(said.boxes[positive], gt_boxes[matched[positive]].float())
        return AssignResult(matched, positive.to(torch.int8), quality)

    def _zone(self) -> Score:
        """How far a place is inside the zone, px; its prior is a square of the stride."""

        def inside(dx: Tensor, dy: Tensor, pw: Tensor, ph: Tensor, gw: Tensor, gh: Tensor) -> Tensor:
            return torch.minimum(self.radius * pw - dx.abs(), self.radius * ph - dy.abs()) + 0 * gw

        def largest(dx: Tensor, dy: Tensor, w_low: Tensor, w: Tensor, h_low: Tensor, h: Tensor, *gt: Tensor) -> Tensor:
            return inside(dx, dy, w, h, *gt)

        return Score(inside, largest)

    @staticmethod
    def _class_cost(said: Predictions, pairs: Matches) -> Tensor:
        """(P,) Σ_c BCE(√score_c, [c = class of the object])."""
        root = said.scores.double().sqrt()
        yes, no = root.log().clamp(min=_LEAST_LOG), torch.log1p(-root).clamp(min=_LEAST_LOG)
        cls = said.gt_classes[pairs.gt]
        return -no.sum(dim=1)[pairs.prior] + no[pairs.prior, cls] - yes[pairs.prior, cls]

    def _how_many(self, pairs: Matches, iou: Tensor, count: int) -> Tensor:
        """(G,) k of each object."""
        best, place = rank_by_score(Matches(pairs.gt, pairs.prior, iou))
        best = best.keep(place < self.topk)
        total = torch.zeros(count, dtype=iou.dtype, device=iou.device).scatter_add_(0, best.gt, best.score)
        return total.long().clamp(min=1)
