"""Matching of YOLOv5: by shape alone, in the cell of the centre and its two nearest neighbours."""

from __future__ import annotations

import torch
from torch import Tensor

from d2tiny.modeling.assigners.base import Assigner, AssignResult, Predictions, Priors
from d2tiny.modeling.assigners.helpers import build_result, match_to_best
from d2tiny.modeling.priors.grid import GridLevel, GridPriors
from d2tiny.ops.boxes import aligned_iou, xyxy_to_cxcywh
from d2tiny.ops.matches import Matches
from d2tiny.utils.registry import ASSIGNER_REGISTRY
from d2tiny.utils.tensors import require_boxes

__all__ = ["RatioAssigner"]


@ASSIGNER_REGISTRY.register()
class RatioAssigner(Assigner):
    """An anchor is positive when neither side differs from the object's by a factor of ``max_ratio`` or more.

    This holds for the anchors of the cell that contains the object's centre and, along each axis, of the neighbouring
    cell that is nearer to the centre (of neither in the exact middle or on the edge, and of none outside the map;
    released code also takes the neighbour behind an edge, whose anchors cannot reach the object). :meth:`pairs` returns
    all of these pairs, because an anchor of YOLOv5 may learn several objects. As an assigner, which matches each prior
    to one object, it takes the one with the best IoU of anchor and object.
    """

    def __init__(self, *, max_ratio: float = 4.0, ignore_iof_thresh: float = 0.5) -> None:
        """Set the rule.

        Args:
            max_ratio: upper limit of the ratio of the sides, above 1.
            ignore_iof_thresh: see :class:`Assigner`.

        Raises:
            ValueError: a ratio of 1 or less.
        """
        super().__init__(ignore_iof_thresh=ignore_iof_thresh)
        if max_ratio <= 1:
            raise ValueError(f"RatioAssigner: max_ratio must be over 1, got {max_ratio}.")
        self.max_ratio = max_ratio

    def pairs(self, priors: Priors, gt_boxes: Tensor) -> Matches:
        """Return all pairs of an object and a positive anchor; the score is 1 / the largest ratio of their sides.

        Args:
            priors: on a grid.
            gt_boxes: (G, 4) XYXY in px.

        Raises:
            ValueError: plain boxes instead of :class:`GridPriors`.
        """
        if not isinstance(priors, GridPriors):
            raise ValueError("RatioAssigner: cells have neighbours on a grid only; give it GridPriors.")
        require_boxes(gt_boxes, "gt_boxes")
        gts = xyxy_to_cxcywh(gt_boxes.double())
        parts, offset = [], 0
        for level in priors.levels:
            parts.append(self._pairs_of_level(level, offset, gts))
            offset += level.height * level.width * len(level.cell_anchors)
        pairs, usable = Matches.cat(parts, gt_boxes.device), priors.usable()
        return pairs if usable is None else pairs.keep(usable[pairs.prior])

    def _pairs_of_level(self, level: GridLevel, offset: int, gts: Tensor) -> Matches:
        """Return the pairs of one level, whose first prior has the index ``offset``; gts are (G, 4) cx, cy, w, h."""
        size = (level.cell_anchors[:, 2:] - level.cell_anchors[:, :2]).to(gts)
        ratio = gts[:, None, 2:] / size[None]
        max_ratio = torch.maximum(ratio, 1 / ratio).amax(dim=2)  # (G, A)
        gt, anchor = (max_ratio < self.max_ratio).nonzero(as_tuple=True)
        grid_size = torch.tensor((level.width, level.height), device=gts.device)
        centre = gts[gt, :2] / level.stride  # in cells
        cell = centre.floor().long().clamp(min=0).minimum(grid_size - 1)
        low = (centre % 1 < 0.5) & (centre > 1)
        high = (centre % 1 > 0.5) & (grid_size - centre > 1)
        shifts = ((0, 0), (-1, 0), (0, -1), (1, 0), (0, 1))
        masks = (torch.ones_like(low[:, 0]), low[:, 0], low[:, 1], high[:, 0], high[:, 1])
        parts = []
        for shift, mask in zip(shifts, masks, strict=True):
            x, y = (cell[mask] + torch.tensor(shift, device=gts.device)).clamp(min=0).minimum(grid_size - 1).unbind(1)
            prior = offset + (y * level.width + x) * len(level.cell_anchors) + anchor[mask]
            parts.append(Matches(gt[mask], prior, 1 / max_ratio[gt[mask], anchor[mask]]))
        return Matches.cat(parts, gts.device)

    def _assign(self, priors: Priors, gt_boxes: Tensor, predictions: Predictions | None) -> AssignResult:
        pairs = self.pairs(priors, gt_boxes)
        assert isinstance(priors, GridPriors)
        overlap = aligned_iou(priors.boxes()[pairs.prior].double(), gt_boxes[pairs.gt])
        matched_idxs, best = match_to_best(Matches(pairs.gt, pairs.prior, overlap), len(priors))
        return build_result(matched_idxs, torch.where(matched_idxs >= 0, best, 0.0).float())
