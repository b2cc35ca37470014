"""The object that fits each of many boxes best, without a matrix of all objects and all boxes.

Symbols in shapes: G objects, R boxes, B blocks of 64 objects, P pairs of a box and a block.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from d2tiny.ops.block_topk import Blocks, block_bounds
from d2tiny.ops.boxes import DENSE_ELEMENTS, chunks, xyxy_to_cxcywh
from d2tiny.ops.gaussian import Score

__all__ = ["PairValue", "best_objects"]

# Maps objects and boxes, both (..., 4) XYXY, to their values; they broadcast.
PairValue = Callable[[Tensor, Tensor], Tensor]
# Relative tolerance of bounds. NWD in float32 is that far off where centres are at 10,000 px and C is small.
_SLACK = 1e-2
_NO_OBJECT = torch.iinfo(torch.int64).max


def best_objects(
    objects: Tensor, boxes: Tensor, value: PairValue, bound: Score, *, floor: float = 0.0
) -> tuple[Tensor, Tensor]:
    """Find for each box the object of the highest value, the first of equal ones.

    The result is that of ``value(objects[:, None], boxes[None]).max(dim=0)`` to the last bit, because each value is
    computed as there. Objects are grouped into blocks of neighbours (:mod:`d2tiny.ops.block_topk`); a block whose bound
    is below a value found elsewhere is skipped.

    Args:
        objects: (G, 4) float32 XYXY in px, G > 0.
        boxes: (R, 4) float32 XYXY in px.
        value: float32, not negative.
        bound: the same score in float64, with an upper bound.
        floor: a block whose bound is not above this has no value above 0.

    Returns:
        The values (R,) float32 and the indices of the objects (R,) int64; 0 and 0 where all values are 0.
    """
    blocks = Blocks.from_boxes(xyxy_to_cxcywh(objects.double()))
    members = objects[torch.where(blocks.index < 0, blocks.index[:, :1], blocks.index)]  # (B, 64, 4)
    search = _Search(blocks, members, value, bound, floor)
    parts = [search.best(boxes[part]) for part in chunks(len(boxes), len(members), DENSE_ELEMENTS)]
    values, index = zip(*parts, strict=True) if parts else ((boxes.new_zeros(0),), (blocks.index.new_zeros(0),))
    return torch.cat(values), torch.cat(index)


@dataclass(frozen=True)
class _Search:
    """The search for (r, 4) boxes among blocks, whose objects are ``members`` (B, 64, 4)."""

    blocks: Blocks
    members: Tensor
    value: PairValue
    bound: Score
    floor: float

    def best(self, boxes: Tensor) -> tuple[Tensor, Tensor]:
        """Return values (r,) and indices (r,), see :func:`best_objects`."""
        box, block = self._candidates(boxes)
        best, first = boxes.new_zeros(len(boxes)), box.new_full((len(boxes),), _NO_OBJECT)
        for part in chunks(len(box), self.members.shape[1], DENSE_ELEMENTS):
            b, top, number = box[part], *self._best_of_blocks(boxes, box[part], block[part])
            risen = best.scatter_reduce(0, b, top, "amax")
            first = torch.where(risen > best, _NO_OBJECT, first)
            first = first.scatter_reduce(0, b, torch.where(top == risen[b], number, _NO_OBJECT), "amin")
            best = risen
        return best, torch.where(best > 0, first, 0)

    def _candidates(self, boxes: Tensor) -> tuple[Tensor, Tensor]:
        """Return the (P,) pairs of a box and a block that may hold its best object."""
        upper = block_bounds(self.blocks, xyxy_to_cxcywh(boxes.double()), self.bound)  # (r, B)
        reached = self.value(self.members[upper.argmax(dim=1)], boxes[:, None]).amax(dim=1)
        reached = torch.where(reached < torch.finfo(reached.dtype).tiny, 0, reached).double()  # denormals are inexact
        candidate = (upper >= reached[:, None] * (1 - _SLACK)) & (upper > self.floor)
        box, block = candidate.nonzero(as_tuple=True)
        return box, block

    def _best_of_blocks(self, boxes: Tensor, box: Tensor, block: Tensor) -> tuple[Tensor, Tensor]:
        """Return the highest value in the block of each pair, (p,), and the first object that has it, (p,)."""
        values = self.value(self.members[block], boxes[box][:, None])  # (p, 64)
        top, index = values.amax(dim=1), self.blocks.index[block]
        is_top = (values == top[:, None]) & (index >= 0)
        return top, torch.where(is_top, index, _NO_OBJECT).amin(dim=1)
