"""Base class of the box losses, and their use by heads."""

from __future__ import annotations

import abc

from detectron2.modeling.box_regression import Box2BoxTransform
from torch import Tensor, nn

from d2tiny.utils.precision import without_autocast
from d2tiny.utils.tensors import upcast

__all__ = ["BoxLoss", "reduce_loss", "regression_loss"]


def reduce_loss(loss: Tensor, weight: Tensor | None, avg_factor: float | Tensor | None) -> Tensor:
    """Sum a loss over the positives, with optional weights, and divide it by ``avg_factor``.

    Args:
        loss: (P,) or (P, 4), one value for each positive (and coordinate).
        weight: (P,) factors.
        avg_factor: divisor; None divides by the number of elements, by 1 where there are none.

    Returns:
        A scalar with a gradient path, also for P = 0.
    """
    if weight is not None:
        loss = loss * (weight if weight.dim() == loss.dim() else weight[:, None])
    if avg_factor is None:
        avg_factor = max(loss.numel(), 1)
    return loss.sum() / avg_factor


class BoxLoss(nn.Module, abc.ABC):
    """Compares the boxes of P positives with their targets, in float32 also under autocast.

    A subclass sets ``space`` and implements :meth:`_elementwise`.

    Attributes:
        space: ``delta`` if the loss takes encoded deltas, ``box`` if it takes decoded XYXY boxes.
        loss_weight: factor on the result.
        l1_weight: factor on the mean absolute error of the deltas, which :func:`regression_loss` adds to a loss on
            boxes.
    """

    space: str = "delta"
    l1_weight: float = 0.0

    def __init__(self, *, loss_weight: float = 1.0) -> None:
        super().__init__()
        self.loss_weight = loss_weight

    def forward(
        self,
        pred: Tensor,
        target: Tensor,
        *,
        weight: Tensor | None = None,
        avg_factor: float | Tensor | None = None,
        groups: Tensor | None = None,
    ) -> Tensor:
        """Return the scalar loss.

        Args:
            pred: (P, 4) predictions, in the loss's ``space``.
            target: (P, 4) targets, likewise.
            weight: (P,) factors.
            avg_factor: divisor, see :func:`reduce_loss`.
            groups: (P,) int64, image of each positive, for losses with statistics of an image.

        Raises:
            ValueError: shapes differ.
        """
        if pred.shape != target.shape:
            raise ValueError(
                f"{type(self).__name__}: pred {tuple(pred.shape)} and target "
                f"{tuple(target.shape)} must have the same shape."
            )
        with without_autocast(pred.device):
            loss = reduce_loss(self._elementwise(upcast(pred), upcast(target), groups), weight, avg_factor)
            penalty = self._penalty()
            return self.loss_weight * (loss if penalty is None else loss + penalty)

    @abc.abstractmethod
    def _elementwise(self, pred: Tensor, target: Tensor, groups: Tensor | None) -> Tensor:
        """Return (P,) or (P, 4) losses of float32 or float64 inputs."""

    def _penalty(self) -> Tensor | None:
        """Return a scalar on the loss's own parameters, added after the reduction, or None."""
        return None


def regression_loss(
    box_loss: BoxLoss,
    coder: Box2BoxTransform,
    deltas: Tensor,
    priors: Tensor,
    targets: Tensor,
    *,
    avg_factor: float | Tensor,
    weight: Tensor | None = None,
    groups: Tensor | None = None,
) -> Tensor:
    """Compute a box loss of predicted deltas, which are decoded if the loss takes boxes.

    Args:
        box_loss: any box loss.
        coder: encodes and decodes boxes.
        deltas: (P, 4) predicted deltas.
        priors: (P, 4) anchors or proposals, XYXY in px.
        targets: (P, 4) matched objects, XYXY in px.
        avg_factor: divisor.
        weight: (P,) factors.
        groups: (P,) int64, image of each positive.

    Returns:
        A scalar; with ``l1_weight`` it includes L1 of the deltas.
    """
    deltas = upcast(deltas)
    if box_loss.space == "delta":
        target_deltas = coder.get_deltas(priors, targets)
        return box_loss(deltas, target_deltas, weight=weight, avg_factor=avg_factor, groups=groups)
    decoded = coder.apply_deltas(deltas, priors)
    loss = box_loss(decoded, targets, weight=weight, avg_factor=avg_factor, groups=groups)
    if box_loss.l1_weight:
        error = (deltas - coder.get_deltas(priors, targets)).abs().mean(dim=1)
        loss = loss + box_loss.l1_weight * reduce_loss(error, weight, avg_factor)
    return loss
