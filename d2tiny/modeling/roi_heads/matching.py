"""Match proposals with objects as Detectron2's ``Matcher`` does, in bounded memory.

Symbols in shapes: G objects and R proposals of an image.
"""

from __future__ import annotations

from functools import partial

import torch
from detectron2.modeling.matcher import Matcher
from torch import Tensor

from d2tiny.ops.best_match import PairValue, best_objects
from d2tiny.ops.boxes import CHUNK_ELEMENTS, DENSE_ELEMENTS, aligned_iou, chunks, xyxy_to_cxcywh
from d2tiny.ops.gaussian import BOUND_ROUNDING, get_score, nwd_score

__all__ = ["match_proposals"]

# Below the smallest float32: a value of this or less is 0.
_UNDERFLOW = 1e-46


def match_proposals(
    matcher: Matcher, objects: Tensor, boxes: Tensor, nwd_constant: float | None = None
) -> tuple[Tensor, Tensor]:
    """Return the object and the label of each proposal.

    The result is that of ``matcher`` on the whole (G, R) matrix, ties included. Where the matrix would be large, only
    the best object of each proposal is searched for (:func:`~d2tiny.ops.best_match.best_objects`).

    Args:
        matcher: thresholds and labels.
        objects: (G, 4) float32 XYXY in px.
        boxes: (R, 4) float32 XYXY in px, the proposals.
        nwd_constant: C of NWD in px; None matches by IoU.

    Returns:
        Indices of the objects (R,) int64, 0 without any overlap, and labels (R,) int8 of ``matcher.labels``.
    """
    value: PairValue = aligned_iou if nwd_constant is None else partial(_nwd, constant=nwd_constant)
    if len(objects) * len(boxes) <= CHUNK_ELEMENTS:
        matched, labels = matcher(value(objects[:, None], boxes[None]))
        return matched, labels
    metric, floor = ("iou", BOUND_ROUNDING) if nwd_constant is None else ("nwd", _UNDERFLOW)
    values, matched = best_objects(objects, boxes, value, get_score(metric, nwd_constant), floor=floor)
    # The matcher compares the best value of each column with its thresholds, so that one row is enough for labels.
    labels = Matcher(matcher.thresholds[1:-1], matcher.labels)(values[None])[1]
    if matcher.allow_low_quality_matches:
        labels[_best_of_any(objects, boxes, value)] = 1
    return matched, labels


def _nwd(objects: Tensor, boxes: Tensor, *, constant: float) -> Tensor:
    """Return the NWD of objects and boxes, which broadcast; 0 for an object without area, as with IoU."""
    g, p = xyxy_to_cxcywh(objects), xyxy_to_cxcywh(boxes)
    offset = p[..., :2] - g[..., :2]
    values = nwd_score(*offset.unbind(-1), *p[..., 2:].unbind(-1), *g[..., 2:].unbind(-1), constant=constant)
    return values * (g[..., 2:] > 0).all(dim=-1)


def _best_of_any(objects: Tensor, boxes: Tensor, value: PairValue) -> Tensor:
    """Return which proposals are the best of some object, or tie with it, (R,) bool."""
    mask = torch.zeros(len(boxes), dtype=torch.bool, device=boxes.device)
    for part in chunks(len(objects), len(boxes), DENSE_ELEMENTS):
        values = value(objects[part, None], boxes[None])
        mask |= (values == values.amax(dim=1, keepdim=True)).any(dim=0)
    return mask
