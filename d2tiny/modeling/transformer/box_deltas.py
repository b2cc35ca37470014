"""How heads of a detection transformer move boxes."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from d2tiny.layers.position import inverse_sigmoid
from d2tiny.utils.errors import did_you_mean

__all__ = ["apply_deltas", "check_delta_unit"]

_MAX_LOG_SCALE = math.log(1000 / 16)  # a side grows or shrinks at most so much in one step, as in Detectron2's R-CNN
_MIN_SIDE, _MAX_SIDE = 1e-6, 1.0  # shares of the image; at a limit the gradient goes on, else a box could not leave it
_UNITS = ("box",)


def check_delta_unit(name: str, delta_unit: str | None) -> None:
    """Raise ValueError for an unknown unit; ``name`` is the component that was given it."""
    if delta_unit is not None and delta_unit not in _UNITS:
        raise ValueError(
            f"{name}: unknown delta_unit '{delta_unit}'; it is 'box', or None (null in a config) for DINO's logits. "
            f"{did_you_mean(delta_unit, _UNITS)}"
        )


def apply_deltas(boxes: Tensor, deltas: Tensor, delta_unit: str | None) -> Tensor:
    """Move boxes.

    With the unit ``box`` they are those of R-CNN (Girshick et al., 2014, eqs. 1-4): centres move by shares of the box's
    sides, sides grow by a factor exp(δ). The same deltas mean as many px in an image of any size. With None they are
    those of Deformable DETR and DINO: added to the logits of centre and sides in shares of the image, so that what is
    learned on crops moves centres too far in whole images: 4 × as far in one of four times the side.

    Args:
        boxes: (..., 4) cx, cy, w, h in shares of the image, float32.
        deltas: (..., 4) outputs of a box head, float32.
        delta_unit: ``box`` or None.

    Returns:
        (..., 4) float32. With ``box``, centres may lie outside the image, and sides are in [10⁻⁶, 1].
    """
    if delta_unit is None:
        return (deltas + inverse_sigmoid(boxes)).sigmoid()
    centres, sides = boxes[..., :2], boxes[..., 2:]
    moved = centres + deltas[..., :2] * sides
    scaled = sides * _limited(deltas[..., 2:], -_MAX_LOG_SCALE, _MAX_LOG_SCALE).exp()
    return torch.cat((moved, _limited(scaled, _MIN_SIDE, _MAX_SIDE)), dim=-1)


def _limited(x: Tensor, low: float, high: float) -> Tensor:
    """Clamp the values and pass the gradient through."""
    return x.clamp(low, high).detach() + (x - x.detach())
