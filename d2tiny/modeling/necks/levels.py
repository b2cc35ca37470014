"""What necks check of the features that they are given."""

from __future__ import annotations

from collections.abc import Mapping

from detectron2.layers import ShapeSpec

from d2tiny.utils.errors import did_you_mean

__all__ = ["check_levels"]


def check_levels(who: str, channels: Mapping[str, int], input_shape: Mapping[str, ShapeSpec]) -> None:
    """Compare a neck's levels and channels with what stands before it.

    Raises:
        ValueError: a level is missing or has other channels.
    """
    for name, count in channels.items():
        if name not in input_shape:
            raise ValueError(f"{who}: no level '{name}'. {did_you_mean(name, input_shape)}")
        given = input_shape[name].channels
        if given not in (None, count):
            raise ValueError(f"{who}: channels says {count} for level '{name}', the backbone {given}.")
