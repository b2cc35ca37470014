"""Check and convert tensors that come from users' data."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["require_boxes", "upcast"]


def require_boxes(boxes: Tensor, name: str) -> None:
    """Raise an error unless ``boxes`` is (N, 4) and finite.

    Args:
        boxes: boxes in any format of four numbers.
        name: name of the argument, for the message.

    Raises:
        ValueError: wrong shape, NaN or infinity; names the first row and counts them.
    """
    if boxes.dim() != 2 or boxes.shape[1] != 4:
        raise ValueError(f"{name} must have shape (N, 4), got {tuple(boxes.shape)}.")
    if not torch.isfinite(boxes).all():
        bad = (~torch.isfinite(boxes).all(dim=1)).nonzero().flatten().tolist()
        raise ValueError(
            f"{name} holds NaN or infinity in {len(bad)} of {len(boxes)} rows (first: row "
            f"{bad[0]} = {boxes[bad[0]].tolist()}). Check the annotations of this image."
        )


def upcast(x: Tensor) -> Tensor:
    """Return ``x`` as float32; float64 is kept."""
    return x if x.dtype in (torch.float32, torch.float64) else x.float()
