"""Scale-adaptive loss of SARL (SFL in the paper's text): small objects weigh more."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from d2tiny.modeling.losses.base import BoxLoss
from d2tiny.modeling.losses.iou import IOU_LOSSES, iou_loss
from d2tiny.utils.distributed import is_distributed
from d2tiny.utils.errors import did_you_mean
from d2tiny.utils.registry import BOX_LOSS_REGISTRY

__all__ = ["SALoss", "sal_weight"]

_EPS = 1e-7
EMA_MOMENTUM = 0.99


def sal_weight(area: Tensor, low: Tensor, high: Tensor, beta: float) -> Tensor:
    """Compute the weight ``β·ln(2 − s)`` with ``s = (A − low) / (high − low)`` in [0, 1].

    Args:
        area: (P,) px², of the matched ground truths.
        low: smallest area, a scalar or (P,).
        high: largest area, likewise; if it equals ``low``, s is 0, which gives the full weight.
        beta: factor; with 2/ln 2 the weight is 2 for the smallest and 0 for the largest object.

    Returns:
        (P,), without a gradient.
    """
    s = ((area - low) / (high - low).clamp(min=_EPS)).clamp(0, 1)
    return (beta * torch.log(2 - s)).detach()


@BOX_LOSS_REGISTRY.register()
class SALoss(BoxLoss):
    """An IoU loss of decoded boxes, weighted by how small the object is among the positives (SARL eq. 5).

    Differences from the paper: the sum is divided by the normaliser of the head; the IoU is the ordinary one (eq. 5
    lacks min, max and clamp); one object, or objects of one size, get the full weight, where the equation is 0/0; other
    IoU losses than ``1 − IoU²`` may be the base. ``l1_weight`` adds L1 on deltas (eq. 3).
    """

    space = "box"
    area_range: Tensor

    def __init__(
        self,
        *,
        base: str = "iou2",
        beta: float = 2 / math.log(2),
        stat_mode: str = "batch",
        sync_stats: bool = True,
        l1_weight: float = 0.0,
        loss_weight: float = 1.0,
    ) -> None:
        """Set base and statistics.

        Args:
            base: ``iou2``, ``iou``, ``giou``, ``diou`` or ``ciou``.
            beta: β; the paper tries 1, 1/ln 2 and 2/ln 2 (best).
            stat_mode: take the smallest and the largest area from the ``batch``, from each ``image`` (by ``groups``;
                without them all positives are of one image), or from a moving average (``ema``).
            sync_stats: take them over all processes, so that the loss does not depend on how a batch is distributed.
            l1_weight: factor on the mean absolute error of the four deltas, which
                :func:`~d2tiny.modeling.losses.base.regression_loss` adds for each positive; 0 leaves it out.
            loss_weight: factor on the weighted IoU loss, not on L1 (eq. 3).

        Raises:
            ValueError: a setting outside its range.
        """
        super().__init__(loss_weight=loss_weight)
        if base not in IOU_LOSSES:
            raise ValueError(f"SALoss: unknown base '{base}'. {did_you_mean(base, IOU_LOSSES)}")
        if stat_mode not in ("batch", "image", "ema"):
            raise ValueError(f"SALoss: stat_mode must be 'batch', 'image' or 'ema', got {stat_mode!r}.")
        if beta <= 0 or l1_weight < 0:
            raise ValueError(f"SALoss: need beta > 0 and l1_weight >= 0, got {beta}, {l1_weight}.")
        self.base, self.beta, self.stat_mode = base, beta, stat_mode
        self.sync_stats = sync_stats
        self.l1_weight = l1_weight
        if stat_mode == "ema":
            self.register_buffer("area_range", torch.zeros(2))  # smallest, largest; zeros before the first positive

    def _elementwise(self, pred: Tensor, target: Tensor, groups: Tensor | None) -> Tensor:
        area = (target[:, 2:] - target[:, :2]).clamp(min=0).prod(dim=1)
        low, high = self._range(area, groups)
        return sal_weight(area, low, high, self.beta) * iou_loss(pred, target, self.base)

    @torch.no_grad()
    def _range(self, area: Tensor, groups: Tensor | None) -> tuple[Tensor, Tensor]:
        """Return the smallest and the largest area, scalars or (P,)."""
        if self.stat_mode == "image" and groups is not None:
            count = int(groups.max()) + 1 if len(groups) else 0
            low = area.new_full((count,), torch.inf).scatter_reduce_(0, groups, area, "amin")
            high = area.new_full((count,), -torch.inf).scatter_reduce_(0, groups, area, "amax")
            return low[groups], high[groups]
        # (−smallest, largest), so that one reduction by maximum serves both
        both = torch.stack((-area.amin(), area.amax())) if len(area) else area.new_full((2,), -torch.inf)
        if self.sync_stats and is_distributed() and self.stat_mode != "image":
            torch.distributed.all_reduce(both, op=torch.distributed.ReduceOp.MAX)
        low, high = -both[0], both[1]
        if self.stat_mode != "ema":
            return low, high
        if self.training and torch.isfinite(both).all():
            now = torch.stack((low, high)).to(self.area_range)
            moved = EMA_MOMENTUM * self.area_range + (1 - EMA_MOMENTUM) * now
            self.area_range.copy_(torch.where(self.area_range[1] > 0, moved, now))
        known = self.area_range.to(area)
        return torch.where(known[1] > 0, known[0], low), torch.where(known[1] > 0, known[1], high)
