"""Conversion of Detectron2's anchor generators to :class:`GridPriors`."""

from __future__ import annotations

from collections.abc import Sequence

from detectron2.modeling.anchor_generator import DefaultAnchorGenerator
from torch import Tensor

from d2tiny.modeling.priors.grid import GridLevel, GridPriors, snap_cell_anchors

__all__ = ["grid_from_generator"]


def grid_from_generator(generator: DefaultAnchorGenerator, features: Sequence[Tensor]) -> GridPriors:
    """Return the anchors that ``generator`` creates for ``features``, as a description of their grid.

    Args:
        generator: Detectron2's default generator, or a subclass that only changes the cell anchors.
        features: one (B, C, H, W) map for each level.

    Returns:
        Priors whose :meth:`~GridPriors.boxes` equal the generator's output up to 0.001 px: cell anchors are rounded by
        :func:`snap_cell_anchors`, so that the grid and the boxes have exactly the same coordinates.
    """
    return GridPriors(
        [
            GridLevel(
                stride=int(stride),
                height=feature.shape[-2],
                width=feature.shape[-1],
                cell_anchors=snap_cell_anchors(anchors.to(feature.device)),
                offset=float(generator.offset),
            )
            for stride, anchors, feature in zip(generator.strides, list(generator.cell_anchors), features, strict=True)
        ]
    )
