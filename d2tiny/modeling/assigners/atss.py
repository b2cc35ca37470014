"""Adaptive training sample selection (Zhang et al., CVPR 2020)."""

from __future__ import annotations

import torch
from torch import Tensor

from d2tiny.modeling.assigners.base import Assigner, AssignResult, Predictions, Priors, best_winner, searchable
from d2tiny.ops.boxes import xyxy_to_cxcywh
from d2tiny.ops.gaussian import Score, clamped_size_bound, get_score
from d2tiny.ops.grid_topk import PriorGrids
from d2tiny.ops.matches import Matches, keep_topk
from d2tiny.ops.prior_search import score_aligned, topk_priors
from d2tiny.utils.registry import ASSIGNER_REGISTRY

__all__ = ["ATSSAssigner"]

# A centre this far inside the object counts as inside, px (the released code).
_INSIDE = 0.01
# Equal scores must not fall short of their own mean.
_ROUNDING = 1e-9


def _nearness(dx: Tensor, dy: Tensor, pw: Tensor, ph: Tensor, gw: Tensor, gh: Tensor) -> Tensor:
    """Minus the squared distance of the centres; the sizes only give the shape."""
    return -(dx**2 + dy**2) + 0 * (pw + ph + gw + gh)


_NEAREST = Score(_nearness, clamped_size_bound(_nearness))


@ASSIGNER_REGISTRY.register()
class ATSSAssigner(Assigner):
    """Candidates are the k nearest priors of each level; those over mean + deviation of their scores are positive.

    For each ground truth: the k priors of every level whose centres are nearest (equal distances by lowest index), the
    threshold t = mean + standard deviation (n - 1) of their IoU; positive are candidates with IoU ≥ t whose centre lies
    inside the object. A prior of several objects goes to the one with the highest IoU, the first of equal ones. All
    others are negative. Plain boxes count as one level.

    Differences from the paper: none known. Differences from the released code: equal distances have a defined order; a
    single candidate can be positive (its deviation is no number there); candidates of one score all reach the
    threshold, which is a matter of rounding there; ``kld`` is that of prior and object, not of object and prior.
    """

    def __init__(
        self, *, topk: int = 9, metric: str = "iou", constant: float | None = None, ignore_iof_thresh: float = 0.5
    ) -> None:
        """Set the assignment rule.

        Args:
            topk: k, candidates of each level.
            metric: whose statistics decide: ``iou``, or ``nwd``, ``giou``, … of :data:`d2tiny.ops.gaussian.SCORES`.
            constant: of ``nwd`` and ``dotd``, px.
            ignore_iof_thresh: see :class:`Assigner`.

        Raises:
            ValueError: k under 1, or an unknown metric.
        """
        super().__init__(ignore_iof_thresh=ignore_iof_thresh)
        if topk < 1:
            raise ValueError(f"ATSSAssigner: topk must be at least 1, got {topk}.")
        get_score(metric, constant, error_prefix="ATSSAssigner: ")
        self.topk = int(topk)
        self.metric = metric
        self.constant = constant

    def _assign(self, priors: Priors, gt_boxes: Tensor, predictions: Predictions | None) -> AssignResult:
        num_priors, device = len(priors), gt_boxes.device
        gts = xyxy_to_cxcywh(gt_boxes)
        where = searchable(priors)
        boxes = xyxy_to_cxcywh((priors if isinstance(priors, Tensor) else priors.boxes()).double())
        levels = (
            [where.select_level(int(i)) for i in where.level.unique()] if isinstance(where, PriorGrids) else [where]
        )
        near = [keep_topk(topk_priors(level, gts, _NEAREST, self.topk), self.topk) for level in levels]
        pairs = Matches.cat(near, device)
        value = score_aligned(boxes, gts, get_score(self.metric, self.constant), pairs)
        threshold = _mean_plus_deviation(value, pairs.gt, len(gts))
        centre = boxes[pairs.prior, :2]
        low, high = gt_boxes[pairs.gt, :2], gt_boxes[pairs.gt, 2:]
        inside = torch.minimum(centre - low, high - centre).amin(dim=1) > _INSIDE
        keep = (value >= threshold[pairs.gt]) & inside
        matched, quality = best_winner(Matches(pairs.gt[keep], pairs.prior[keep], value[keep]), num_priors)
        labels = (matched >= 0).to(torch.int8)
        return AssignResult(matched, labels, torch.where(matched >= 0, quality, 0.0).float())


def _mean_plus_deviation(value: Tensor, group: Tensor, groups: int) -> Tensor:
    """(G,) mean + sample standard deviation of the values of each group; of a single value itself."""
    count = torch.bincount(group, minlength=groups).double()
    mean = torch.zeros_like(count).scatter_add_(0, group, value) / count.clamp(min=1)
    spread = torch.zeros_like(count).scatter_add_(0, group, (value - mean[group]) ** 2)
    return mean + torch.sqrt(spread / (count - 1).clamp(min=1)) - _ROUNDING
