"""Matching of YOLOv5: by shape alone, in the cell of the centre and its two nearest neighbours."""

from __future__ import annotations

import torch
from torch import Tensor

from d2tiny.modeling.assigners.base import Assigner, AssignResult, Predictions, Priors, best_winner
from d2tiny.modeling.priors.grid import GridLevel, GridPriors
from d2tiny.ops.boxes import aligned_iou, xyxy_to_cxcywh
from d2tiny.ops.matches import Matches
from d2tiny.utils.checks import check_boxes
from d2tiny.utils.registry import ASSIGNER_REGISTRY

__all__ = ["RatioAssigner"]


@ASSIGNER_REGISTRY.register()
class RatioAssigner(Assigner):
    """An anchor is positive when neither side differs from the object's by ``max_ratio`` times or more.

    It is so in the cell that holds the object's centre and, along each axis, in the neighbour that is nearer to it
    (none in the exact middle or on the edge, none outside the map; released code also takes the neighbour behind an
    edge, whose anchors cannot reach the object). :meth:`pairs` gives all of these pairs: YOLOv5 lets several
    objects learn one anchor. As an assigner, which gives each prior one object, the best IoU of anchor and object
    wins.
    """

    def __init__(self, *, max_ratio: float = 4.0, ignore_iof_thresh: float = 0.5) -> None:
        """Set the rule.

        Args:
            max_ratio: of the sides, over 1.
            ignore_iof_thresh: see :class:`Assigner`.

        Raises:
            ValueError: a ratio of 1 or less.
        """
        super().__init__(ignore_iof_thresh=ignore_iof_thresh)
        if max_ratio <= 1:
            raise ValueError(f"RatioAssigner: max_ratio must be over 1, got {max_ratio}.")
        self.max_ratio = max_ratio

    def pairs(self, priors: Priors, gt_boxes: Tensor) -> Matches:
        """All pairs of an object and an anchor that may learn it; the score is 1 / the larger ratio of their sides.

        Args:
            priors: on a grid.
            gt_boxes: (G, 4) XYXY.

        Raises:
            ValueError: priors without a grid.
        """
        if not isinstance(priors, GridPriors):
            raise ValueError("RatioAssigner: cells have neighbours on a grid only; give it GridPriors.")
        check_boxes(gt_boxes, "gt_boxes")
        gts = xyxy_to_cxcywh(gt_boxes.double())
        parts, base = [], 0
        for level in priors.levels:
            parts.append(self._of_level(level, base, gts))
            base += level.height * level.width * len(level.cells)
        return Matches.cat(parts, gt_boxes.device)

    def _of_level(self, level: GridLevel, base: int, gts: Tensor) -> Matches:
        size = (level.cells[:, 2:] - level.cells[:, :2]).to(gts)
        ratio = gts[:, None, 2:] / size[None]
        worst = torch.maximum(ratio, 1 / ratio).amax(dim=2)  # (G, A)
        gt, anchor = (worst < self.max_ratio).nonzero(as_tuple=True)
        sides = torch.tensor((level.width, level.height), device=gts.device)
        place = gts[gt, :2] / level.stride
        cell = place.floor().long().clamp(min=0).minimum(sides - 1)
        low = (place % 1 < 0.5) & (place > 1)
        high = (place % 1 > 0.5) & (sides - place > 1)
        shifts = ((0, 0), (-1, 0), (0, -1), (1, 0), (0, 1))
        takes = (torch.ones_like(low[:, 0]), low[:, 0], low[:, 1], high[:, 0], high[:, 1])
        parts = []
        for shift, take in zip(shifts, takes, strict=True):
            at = (cell[take] + torch.tensor(shift, device=gts.device)).clamp(min=0).minimum(sides - 1)
            prior = base + (at[:, 1] * level.width + at[:, 0]) * len(level.cells) + anchor[take]
            parts.append(Matches(gt[take], prior, 1 / worst[gt[take], anchor[take]]))
        return Matches.cat(parts, gts.device)

    def _assign(self, priors: Priors, gt_boxes: Tensor, predictions: Predictions | None) -> AssignResult:
        found = self.pairs(priors, gt_boxes)
        assert isinstance(priors, GridPriors)
        overlap = aligned_iou(priors.boxes()[found.prior].double(), gt_boxes[found.gt])
        matched, best = best_winner(Matches(found.gt, found.prior, overlap), len(priors))
        quality = torch.where(matched >= 0, best, 0.0).float()
        return AssignResult(matched, (matched >= 0).to(torch.int8), quality)
