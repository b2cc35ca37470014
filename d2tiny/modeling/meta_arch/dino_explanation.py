"""What DGQ and REM decide for an image, for pictures and measurements."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

__all__ = ["Explanation"]


@dataclass(frozen=True)
class Explanation:
    """Decisions of DGQ and REM for one image, without padding.

    Attributes:
        density: (H, W) objects per cell of the finest level; None without DGQ.
        num_objects: predicted number of objects; None without DGQ.
        class_count: number of objects by a classifier; None without one.
        tokens: L tensors (H, W) boolean, cells that the encoder updates; None without sparsity.
        reference_points: (Q, 2) centres x, y of the queries' first reference boxes in px.
        is_peak: (Q,) boolean, queries that start at a peak of the density; None without DGQ.
        routing_weights: L tensors (E, H, W), shares of the experts in the mixture; None without REM.
        categories: names of the E experts by category, in order; empty without REM.
    """

    density: Tensor | None
    num_objects: int | None
    class_count: float | None
    tokens: list[Tensor] | None
    reference_points: Tensor
    is_peak: Tensor | None
    routing_weights: list[Tensor] | None
    categories: dict[str, list[str]]
