"""Which published weights fit the images, where a user names none."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from d2tiny.data.loading.stretch import StretchLike
from d2tiny.inference.raster import ReadSettings, open_pixels
from d2tiny.utils.errors import ConfigError, DatasetError
from d2tiny.utils.published import PublishedWeights, default_weights

__all__ = ["fitting_weights", "is_grey", "kind_of"]

_LOOKED_AT = 8  # images, evenly spread
_SIDE = 1024  # px of the middle of each
_TINT = 8  # levels between the channels of a pixel that are no colour yet: what JPEG leaves in grey images
_COLOURED = 0.01  # share of pixels with colour from which on an image is in colour


def is_grey(image: np.ndarray[Any, Any]) -> bool:
    """Return whether an image (H, W, 3) uint8 has no colours."""
    tint = image.max(axis=2) - image.min(axis=2)
    return bool((tint > _TINT).mean() < _COLOURED)


def _middle(file: str, stretch: StretchLike) -> np.ndarray[Any, Any]:
    """Return the middle of an image, which may be larger than the memory."""
    pixels = open_pixels(file, ReadSettings(stretch))
    try:
        x, y = (max(0, (side - _SIDE) // 2) for side in (pixels.width, pixels.height))
        return pixels.read(x, y, min(x + _SIDE, pixels.width), min(y + _SIDE, pixels.height))
    finally:
        pixels.close()


def kind_of(files: Sequence[str], stretch: StretchLike = None) -> str:
    """Return ``grey`` or ``colour``, or an empty text where no image can be read.

    Args:
        files: images; some of them, evenly spread, are looked at.
        stretch: of images that are not 8-bit.

    Raises:
        ConfigError: there are both.
    """
    spread = np.unique(np.linspace(0, len(files) - 1, min(len(files), _LOOKED_AT)).astype(int))
    examples: dict[str, str] = {}
    for file in (files[i] for i in spread):
        try:
            examples.setdefault("grey" if is_grey(_middle(file, stretch)) else "colour", file)
        except (DatasetError, ConfigError, ImportError):  # told where it is predicted
            continue
    if len(examples) > 1:
        raise ConfigError(
            f"{examples['grey']} is grey and {examples['colour']} in colour, and each kind has a detector of its own: "
            "name one with --weights (d2tiny zoo --published), or give the images of one kind."
        )
    return next(iter(examples), "")


def fitting_weights(
    files: Sequence[str], place: str = "", stretch: StretchLike = None
) -> tuple[PublishedWeights | None, str]:
    """Return the default weights for the kind of these images, and the kind; see :func:`kind_of`.

    Args:
        files: images.
        place: folder or URL of published weights, see :func:`default_weights`.
        stretch: of images that are not 8-bit.
    """
    kind = kind_of(files, stretch)
    return default_weights(place, kind), kind
