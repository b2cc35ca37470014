"""Adaptive training sample selection (Zhang et al., CVPR 2020)."""

from __future__ import annotations

import torch
from torch import Tensor

from d2tiny.modeling.assigners.base import Assigner, AssignResult, Predictions, Priors
from d2tiny.modeling.assigners.helpers import build_result, match_to_best, spatial_index
from d2tiny.ops.boxes import xyxy_to_cxcywh
from d2tiny.ops.gaussian import Score, clamped_size_bound, get_score
from d2tiny.ops.grid_topk import PriorGrids
from d2tiny.ops.matches import Matches, keep_topk
from d2tiny.ops.prior_search import score_aligned, topk_priors
from d2tiny.utils.registry import ASSIGNER_REGISTRY

__all__ = ["ATSSAssigner"]

# A prior's centre must be farther inside the object than this, px (released code).
_MIN_INSIDE = 0.01
# Subtracted from the threshold, so that rounding does not put equal scores below their own mean.
_ROUNDING = 1e-9


def _negative_distance(dx: Tensor, dy: Tensor, pw: Tensor, ph: Tensor, gw: Tensor, gh: Tensor) -> Tensor:
    """Return minus the squared distance of the centres, px²; the sizes only give the shape."""
    return -(dx**2 + dy**2) + 0 * (pw + ph + gw + gh)


_NEAREST = Score(_negative_distance, clamped_size_bound(_negative_distance))


@ASSIGNER_REGISTRY.register()
class ATSSAssigner(Assigner):
    """Candidates are the k nearest priors of each level; those with an outstanding score are positive.

    For each ground truth, the candidates are the k priors of every level whose centres are nearest (equal distances by
    lowest index), and the threshold t is the mean + standard deviation (n - 1) of their IoU. Candidates with IoU ≥ t
    whose centre lies inside the object are positive. A prior of several objects goes to the one with the highest IoU,
    the first of equal ones. All others are negative. Plain boxes count as one level.

    Differences from the paper: none known. Differences from the released code: equal distances have a defined order; a
    single candidate can be positive (its standard deviation is NaN there); candidates with equal scores all reach the
    threshold, which depends on rounding there; ``kld`` is the divergence of the prior from the object, not of the
    object from the prior.
    """

    def __init__(
        self, *, topk: int = 9, metric: str = "iou", constant: float | None = None, ignore_iof_thresh: float = 0.5
    ) -> None:
        """Set the assignment rule.

        Args:
            topk: k, number of candidates of each level.
            metric: score whose statistics give the threshold: ``iou``, ``nwd``, ``giou`` or another of
                :data:`d2tiny.ops.gaussian.SCORES`.
            constant: C of ``nwd``, S of ``dotd``, px.
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
        index = spatial_index(priors)
        boxes = xyxy_to_cxcywh((priors if isinstance(priors, Tensor) else priors.boxes()).double())
        levels = (
            [index.select_level(int(i)) for i in index.level.unique()] if isinstance(index, PriorGrids) else [index]
        )
        nearest = [keep_topk(topk_priors(level, gts, _NEAREST, self.topk), self.topk) for level in levels]
        candidates = Matches.cat(nearest, device)
        score = score_aligned(boxes, gts, get_score(self.metric, self.constant), candidates)
        threshold = _mean_plus_std(score, candidates.gt, len(gts))
        centre = boxes[candidates.prior, :2]
        low, high = gt_boxes[candidates.gt, :2], gt_boxes[candidates.gt, 2:]
        inside = torch.minimum(centre - low, high - centre).amin(dim=1) > _MIN_INSIDE
        keep = (score >= threshold[candidates.gt]) & inside
        positives = Matches(candidates.gt[keep], candidates.prior[keep], score[keep])
        matched_idxs, quality = match_to_best(positives, num_priors)
        return build_result(matched_idxs, torch.where(matched_idxs >= 0, quality, 0.0).float())


def _mean_plus_std(value: Tensor, group: Tensor, num_groups: int) -> Tensor:
    """Return mean + sample standard deviation of the values (P,) of each group, (G,); 0 deviation of single values."""
    count = torch.bincount(group, minlength=num_groups).double()
    mean = torch.zeros_like(count).scatter_add_(0, group, value) / count.clamp(min=1)
    squares = torch.zeros_like(count).scatter_add_(0, group, (value - mean[group]) ** 2)
    return mean + torch.sqrt(squares / (count - 1).clamp(min=1)) - _ROUNDING
