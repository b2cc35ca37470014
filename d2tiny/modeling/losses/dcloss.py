"""DCLoss of the E-FPN-BS paper (arXiv 2506.09897, eq. 9-10)."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from d2tiny.modeling.losses.base import BoxLoss
from d2tiny.utils.distributed import is_distributed
from d2tiny.utils.registry import BOX_LOSS_REGISTRY

__all__ = ["DCLoss", "dc_loss", "dc_loss_slope"]

K_RANGE = (5.0, 14.0)
DELTA_RANGE = (0.05, 0.5)
# Weight of the penalty that keeps learned parameters near the published k = 10, δ = 0.15.
PRIOR_WEIGHT = 0.01
EMA_MOMENTUM = 0.99


def _sign(mode: str) -> int:
    if mode not in ("prose", "formula"):
        raise ValueError(f"DCLoss: mode must be 'prose' or 'formula', got {mode!r}.")
    return 1 if mode == "formula" else -1


def dc_loss(error: Tensor, *, k: float | Tensor = 10.0, delta: float | Tensor = 0.15, mode: str = "prose") -> Tensor:
    """Compute DCLoss ``w·ε² + (1−w)·ε`` of absolute errors ε ≥ 0, element-wise.

    Args:
        error: ε, any shape.
        k: steepness of the transition.
        delta: δ, error at the middle of the transition.
        mode: ``prose`` follows the paper's text, w = σ(k(δ−ε)): L2 for small, L1 for large errors. ``formula``
            follows its eq. 10, w = σ(k(ε−δ)): L1 for small, L2 for large errors.

    Returns:
        The loss, of the same shape; the two modes add up to ε² + ε.
    """
    w = torch.sigmoid(_sign(mode) * k * (error - delta))
    return w * error**2 + (1 - w) * error


def dc_loss_slope(error: Tensor, *, k: float, delta: float, mode: str = "prose") -> Tensor:
    """Return the derivative of :func:`dc_loss` by ε (the last factor of the paper's eq. 11 is wrong)."""
    sign = _sign(mode)
    w = torch.sigmoid(sign * k * (error - delta))
    return 2 * w * error + (1 - w) + sign * k * w * (1 - w) * error * (error - 1)


def _logit(value: float, bounds: tuple[float, float]) -> float:
    share = (value - bounds[0]) / (bounds[1] - bounds[0])
    return math.log(share / (1 - share))


@BOX_LOSS_REGISTRY.register()
class DCLoss(BoxLoss):
    """Dynamic combination of L1 and L2 on encoded deltas, summed over the four coordinates.

    Unrestricted learning of k and δ is degenerate: it lowers the loss by drifting to pure L2 (docs/papers/dcloss.md).
    There are three safe modes: ``none`` keeps them, ``bounded`` learns them inside [5, 14] and [0.05, 0.5] with a weak
    penalty for leaving 10 and 0.15, ``ema`` lets δ follow the median error of the positives without a gradient.

    Differences from the paper: the default is the formula of its text (see :func:`dc_loss`), and k and δ are fixed, as
    in its own parameter studies.
    """

    space = "delta"
    ema_delta: Tensor

    def __init__(
        self,
        *,
        k: float = 10.0,
        delta: float = 0.15,
        mode: str = "prose",
        learnable: str = "none",
        unit: float = 1.0,
        allow_nonmonotone: bool = False,
        loss_weight: float = 1.0,
    ) -> None:
        """Set the shape of the loss.

        Args:
            k: steepness, > 0; inside (5, 14) for ``bounded``.
            delta: δ, error at the middle of the transition, > 0; inside (0.05, 0.5) for ``bounded``.
            mode: ``prose`` or ``formula``, see :func:`dc_loss`.
            learnable: ``none``, ``bounded`` or ``ema``.
            unit: what the encoded deltas are multiples of, ``unit · L(ε / unit)``; the paper has 1. Box heads encode
                with a weight of 10, so that δ = 0.15 is 1.5 % of a proposal there and 15 % of an anchor in the RPN; a
                unit of 10 makes them equal.
            allow_nonmonotone: accept a k so large that the loss decreases somewhere with growing error.
            loss_weight: factor on the result.

        Raises:
            ValueError: a setting outside its range, or a loss that is not monotone.
        """
        super().__init__(loss_weight=loss_weight)
        _sign(mode)
        if learnable not in ("none", "bounded", "ema"):
            raise ValueError(f"DCLoss: learnable must be 'none', 'bounded' or 'ema', got {learnable!r}.")
        if k <= 0 or delta <= 0:
            raise ValueError(f"DCLoss: k and delta must be > 0, got k={k}, delta={delta}.")
        if unit <= 0:
            raise ValueError(f"DCLoss: unit must be > 0, got {unit}.")
        self.mode = mode
        self.learnable = learnable
        self.unit = unit
        self.k0, self.delta0 = float(k), float(delta)
        # A moving δ must be valid in all of its range.
        steps = torch.linspace(*DELTA_RANGE, 10, dtype=torch.float64).tolist() if learnable == "ema" else []
        errors = torch.linspace(0, 4, 4001, dtype=torch.float64)
        slope, at = min((float(dc_loss_slope(errors, k=k, delta=d, mode=mode).min()), d) for d in (delta, *steps))
        if slope < 0 and not allow_nonmonotone:
            raise ValueError(
                f"DCLoss: with mode={mode!r}, k={k}, delta={at} the loss falls where the error grows "
                f"(slope down to {slope:.3f}). Use a smaller k or allow_nonmonotone=True."
            )
        if learnable == "ema" and not DELTA_RANGE[0] <= delta <= DELTA_RANGE[1]:
            raise ValueError(f"DCLoss: a moving delta stays in {DELTA_RANGE}, so it cannot start at {delta}.")
        if learnable == "bounded":
            if not (K_RANGE[0] < k < K_RANGE[1] and DELTA_RANGE[0] < delta < DELTA_RANGE[1]):
                raise ValueError(
                    f"DCLoss: bounded learning needs k in {K_RANGE} and delta in {DELTA_RANGE}, "
                    f"got k={k}, delta={delta}."
                )
            self.kappa = nn.Parameter(torch.tensor(_logit(k, K_RANGE)))
            self.theta = nn.Parameter(torch.tensor(_logit(delta, DELTA_RANGE)))
        elif learnable == "ema":
            self.register_buffer("ema_delta", torch.tensor(float(delta)))

    # Weight decay would pull the raw parameters to 0, and k and δ with them to the middle of their ranges.
    no_weight_decay = ("kappa", "theta")

    def current_parameters(self) -> tuple[float | Tensor, float | Tensor]:
        """Return the current k and δ; they are tensors with a gradient if they are learned."""
        if self.learnable == "bounded":
            k = K_RANGE[0] + (K_RANGE[1] - K_RANGE[0]) * torch.sigmoid(self.kappa)
            delta = DELTA_RANGE[0] + (DELTA_RANGE[1] - DELTA_RANGE[0]) * torch.sigmoid(self.theta)
            return k, delta
        if self.learnable == "ema":
            return self.k0, self.ema_delta.clone()
        return self.k0, self.delta0

    @torch.no_grad()
    def _update_ema(self, error: Tensor) -> None:
        total = torch.stack(
            (error.median() if error.numel() else error.new_zeros(()), error.new_tensor(float(error.numel() > 0)))
        )
        total[0] *= total[1]
        if is_distributed():
            torch.distributed.all_reduce(total)
        if total[1] > 0:
            mean = total[0] / total[1]
            self.ema_delta.mul_(EMA_MOMENTUM).add_((1 - EMA_MOMENTUM) * mean.to(self.ema_delta))
            self.ema_delta.clamp_(*DELTA_RANGE)

    def _elementwise(self, pred: Tensor, target: Tensor, groups: Tensor | None) -> Tensor:
        error = (pred - target).abs() / self.unit
        if self.learnable == "ema" and self.training:
            self._update_ema(error)
        k, delta = self.current_parameters()
        return self.unit * dc_loss(error, k=k, delta=delta, mode=self.mode)

    def _penalty(self) -> Tensor | None:
        """Return the penalty for the distance of learned parameters from the published values."""
        if self.learnable != "bounded":
            return None
        k, delta = self.current_parameters()
        return torch.as_tensor(PRIOR_WEIGHT * (((k - 10) / 10) ** 2 + ((delta - 0.15) / 0.15) ** 2))
