"""Distribution focal loss (Li et al., GFL, 2020): distances as distributions over integers."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

__all__ = ["dfl_loss"]


def dfl_loss(logits: Tensor, distance: Tensor) -> Tensor:
    """Compute the cross-entropy with the two integers around each distance, weighted by proximity (GFL eq. 6).

    Args:
        logits: (P, 4, R) of a distribution over 0 … R − 1.
        distance: (P, 4) in units of the stride; clamped to [0, R − 1.01], the range of the bins.

    Returns:
        (P,), the mean of the four sides.
    """
    bins = logits.shape[-1]
    distance = distance.to(logits.dtype).clamp(0, bins - 1 - 0.01)
    left = distance.floor()
    fraction = distance - left
    log = F.log_softmax(logits, dim=-1)
    index = left.long()[..., None]
    lower = log.gather(2, index)[..., 0]
    upper = log.gather(2, index + 1)[..., 0]
    return -torch.lerp(lower, upper, fraction).mean(dim=1)
