"""Check of the features that a neck is given."""

from __future__ import annotations

from collections.abc import Mapping

from detectron2.layers import ShapeSpec

from d2tiny.utils.errors import did_you_mean

__all__ = ["check_levels"]


def check_levels(owner: str, channels: Mapping[str, int], input_shape: Mapping[str, ShapeSpec]) -> None:
    """Compare the levels and channels that a neck was built for with the features that it is given.

    Raises:
        ValueError: a level is missing or has other channels.
    """
    for name, count in channels.items():
        if name not in input_shape:
            raise ValueError(f"{owner}: no level '{name}'. {did_you_mean(name, input_shape)}")
        actual = input_shape[name].channels
        if actual not in (None, count):
            raise ValueError(f"{owner}: in_channels says {count} for level '{name}', the backbone {actual}.")
