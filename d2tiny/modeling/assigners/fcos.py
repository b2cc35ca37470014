"""Assignment of FCOS (Tian et al., ICCV 2019): points inside an object are positive."""

from __future__ import annotations

import torch
from torch import Tensor

from d2tiny.modeling.assigners.base import Assigner, AssignResult, Predictions, Priors
from d2tiny.modeling.assigners.helpers import bounded_by_largest_prior, build_result, match_to_best, spatial_index
from d2tiny.ops.boxes import xyxy_to_cxcywh
from d2tiny.ops.matches import Matches
from d2tiny.ops.prior_search import priors_above
from d2tiny.utils.registry import ASSIGNER_REGISTRY

__all__ = ["FCOSAssigner"]


@ASSIGNER_REGISTRY.register()
class FCOSAssigner(Assigner):
    """A point is positive for the smallest object that it lies in and whose farthest side is in its level's range.

    The priors are squares of the stride around the points. The range of a level of stride s is more than 4s and at most
    8s px; that of the finest level begins at 0, that of the coarsest has no end. Of several objects the one with the
    smallest area wins, compared exactly (Detectron2's FCOS compares 1e8 − area in float32, where areas less than 8 px²
    apart are equal), the first of equal ones. ``quality`` is 1.

    Differences from the paper: none known.
    """

    def __init__(self, *, center_radius: float = 1.5, ignore_iof_thresh: float = 0.5) -> None:
        """Set the rule.

        Args:
            center_radius: a point must also be within this many strides of the object's centre; 0 switches it off.
            ignore_iof_thresh: see :class:`Assigner`.

        Raises:
            ValueError: a negative radius.
        """
        super().__init__(ignore_iof_thresh=ignore_iof_thresh)
        if center_radius < 0:
            raise ValueError(f"FCOSAssigner: center_radius must be >= 0, got {center_radius}.")
        self.center_radius = center_radius

    def _assign(self, priors: Priors, gt_boxes: Tensor, predictions: Predictions | None) -> AssignResult:
        num_priors, device = len(priors), gt_boxes.device
        gts = xyxy_to_cxcywh(gt_boxes)

        def inside(dx: Tensor, dy: Tensor, pw: Tensor, ph: Tensor, gw: Tensor, gh: Tensor) -> Tensor:
            """Return how far a point is inside the object and the centre region, px; negative outside."""
            half_w, half_h = gw / 2 + 0 * pw, gh / 2 + 0 * ph
            if self.center_radius:
                half_w, half_h = half_w.minimum(self.center_radius * pw), half_h.minimum(self.center_radius * ph)
            return torch.minimum(half_w - dx.abs(), half_h - dy.abs())

        score = bounded_by_largest_prior(inside)
        pairs = Matches.cat(list(priors_above(spatial_index(priors), gts, score, 1e-6)), device)
        boxes = xyxy_to_cxcywh((priors if isinstance(priors, Tensor) else priors.boxes()).double())
        low, high = self._ranges(boxes[:, 2])
        delta = (boxes[pairs.prior, :2] - gts[pairs.gt, :2]).abs() + gts[pairs.gt, 2:] / 2
        farthest = delta.amax(dim=1)
        pairs = pairs.keep((farthest > low[pairs.prior]) & (farthest <= high[pairs.prior]))
        area = gts[pairs.gt, 2] * gts[pairs.gt, 3]
        matched_idxs, _ = match_to_best(Matches(pairs.gt, pairs.prior, -area), num_priors)
        return build_result(matched_idxs, (matched_idxs >= 0).float())

    @staticmethod
    def _ranges(stride: Tensor) -> tuple[Tensor, Tensor]:
        """Return the range of each prior's level, px: (N,) lower and (N,) upper limit of the farthest side."""
        low, high = 4 * stride, 8 * stride
        low = torch.where(stride == stride.min(), torch.full_like(low, -1.0), low)
        return low, torch.where(stride == stride.max(), torch.full_like(high, torch.inf), high)
