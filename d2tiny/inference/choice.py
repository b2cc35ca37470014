"""Which published weights fit the images, where a user names none."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from d2tiny.inference.pixels import ReadSettings, ScenePixels
from d2tiny.inference.raster import open_pixels
from d2tiny.utils.errors import ConfigError, DatasetError
from d2tiny.utils.published import PublishedWeights, default_weights

__all__ = ["fitting_weights", "is_grey", "kind_of"]

_LOOKED_AT = 8  # images, evenly spread
_WINDOWS, _SIDE = 3, 512  # windows in x and y of a large image, and their sides in px
_TINT = 8  # levels between the channels of a pixel that are no colour yet: what JPEG leaves in grey images
_COLOURED = 0.01  # share of pixels with colour from which on an image is in colour


def is_grey(image: np.ndarray[Any, Any]) -> bool:
    """Return whether an image (H, W, 3) uint8 has no colours."""
    tint = image.max(axis=2) - image.min(axis=2)
    return bool((tint > _TINT).mean() < _COLOURED)


def kind_of(scenes: Sequence[str], read: ReadSettings | None = None) -> str:
    """Return ``grey`` or ``colour``, or an empty text where no scene can be read.

    Args:
        scenes: files or URLs; some of them, evenly spread, are looked at.
        read: how rasters are read.

    Raises:
        ConfigError: there are both.
    """
    read = read and replace(read, resize=None, gsd=None)  # which change no colours
    spread = np.unique(np.linspace(0, len(scenes) - 1, min(len(scenes), _LOOKED_AT)).astype(int))
    examples: dict[str, str] = {}
    for scene in (scenes[i] for i in spread):
        try:
            pixels = open_pixels(scene, read)
            try:
                examples.setdefault("grey" if _all_grey(pixels) else "colour", scene)
            finally:
                pixels.close()
        except (ConfigError, DatasetError, ImportError):  # told where it is predicted
            continue
    if len(examples) > 1:
        raise ConfigError(
            f"{examples['grey']} is grey and {examples['colour']} in colour, and each kind has a detector of its own: "
            "name one with --weights (d2tiny zoo --published), or give the images of one kind."
        )
    return next(iter(examples), "")


def _all_grey(pixels: ScenePixels) -> bool:
    """Return whether a scene has no colours; of a large one, some windows are looked at."""
    columns, rows = (
        sorted({int(start) for start in np.linspace(0, max(0, length - _SIDE), _WINDOWS)})
        for length in (pixels.width, pixels.height)
    )
    windows = [
        pixels.read(x, y, min(x + _SIDE, pixels.width), min(y + _SIDE, pixels.height)) for y in rows for x in columns
    ]
    return is_grey(np.concatenate([window.reshape(1, -1, 3) for window in windows], axis=1))


def fitting_weights(
    scenes: Sequence[str], place: str = "", read: ReadSettings | None = None
) -> tuple[PublishedWeights | None, str]:
    """Return the default weights for the kind of these images, and the kind; see :func:`kind_of`.

    Args:
        scenes: files or URLs.
        place: folder or URL of published weights, see :func:`default_weights`.
        read: how rasters are read.
    """
    kind = kind_of(scenes, read)
    return default_weights(place, kind), kind
