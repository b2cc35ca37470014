"""What of a scene is read, and how: settings, the contract of its pixels, scenes that are in memory."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from PIL import Image

from d2tiny.data.loading.limits import pillow_unlimited
from d2tiny.data.loading.stretch import StretchLike, make_stretch
from d2tiny.inference.scene import GeoReference
from d2tiny.runtime.resize import Resize
from d2tiny.utils.errors import ConfigError, DatasetError

_RESIZE = (0.01, 16.0)

__all__ = ["ArrayPixels", "ReadSettings", "ScenePixels", "is_url", "iso_time", "parse_bands", "time_of"]


@dataclass(frozen=True)
class ReadSettings:
    """How rasters are read.

    Attributes:
        stretch: values, or percentiles, that become 0 and 255 where values are not 8-bit; None takes 2 % and 98 %.
        bands: one band, or three for red, green and blue, counted from 1; None takes those that the file names so.
        gsd: metres a pixel that the raster is resampled to; None takes its pixels as they are.
        resize: factor of both sides of any image, so that objects have the size that a detector was trained for; None
            takes its pixels as they are.
    """

    stretch: StretchLike = None
    bands: tuple[int, ...] | None = None
    gsd: float | None = None
    resize: float | None = None

    def __post_init__(self) -> None:
        make_stretch(self.stretch)  # refuses what is none
        if self.bands is not None and (len(self.bands) not in (1, 3) or min(self.bands) < 1):
            raise ConfigError(f"bands={self.bands} must be one band or three, counted from 1, such as 4,3,2.")
        if self.gsd is not None and not 0 < self.gsd < math.inf:
            raise ConfigError(f"gsd={self.gsd} must be a positive number of metres a pixel.")
        if self.resize is not None and not _RESIZE[0] <= self.resize <= _RESIZE[1]:
            raise ConfigError(f"resize={self.resize} must be a factor from {_RESIZE[0]} to {_RESIZE[1]}; 0.5 halves.")
        if self.gsd is not None and self.resize is not None:
            raise ConfigError("gsd and resize both say how large pixels become; leave one out.")


class ScenePixels(Protocol):
    """The pixels of a scene, as they are looked at.

    Attributes:
        width: in px, after resampling.
        height: likewise.
        scale: (x, y), px of the file for each of these.
        file_size: (width, height) of the file in px.
        geo: where the pixels of the file lie; None for an image without coordinates.
        time: when it was taken, ISO 8601; empty where that is unknown.
        chosen: bands, stretch, ... as they were chosen, for the record and the log.
    """

    width: int
    height: int
    scale: tuple[float, float]
    file_size: tuple[int, int]
    geo: GeoReference | None
    time: str
    chosen: dict[str, Any]

    def read(self, x0: int, y0: int, x1: int, y1: int) -> np.ndarray:
        """Return a window (h, w, 3), uint8 RGB."""
        ...

    def valid(self, x0: int, y0: int, x1: int, y1: int) -> np.ndarray | None:
        """Return which pixels of a window (h, w) have data; None if all have."""
        ...

    def rows(self, first: int, last: int) -> np.ndarray:
        """Return rows ``first`` to ``last`` (excluded), (rows, W, 3) uint8 RGB."""
        ...

    def close(self) -> None:
        """Close the file."""
        ...


class ArrayPixels:
    """A scene that is in memory."""

    def __init__(self, image: np.ndarray, time: str = "", resize: float | None = None) -> None:
        """Wrap an image (H, W, 3), uint8 RGB.

        Args:
            image: the image.
            time: when it was taken.
            resize: factor of both sides, see :class:`ReadSettings`.

        Raises:
            DatasetError: it is of another form.
        """
        if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8 or 0 in image.shape:
            raise DatasetError(f"A scene must be (H, W, 3) uint8, got {image.shape} {image.dtype}.")
        file_height, file_width = image.shape[:2]
        self.file_size = (file_width, file_height)
        self._image = image if resize is None else _resized(image, resize)
        self.height, self.width = self._image.shape[:2]
        self.scale = (file_width / self.width, file_height / self.height)
        self.geo: GeoReference | None = None
        self.time = time
        self.chosen: dict[str, Any] = {}
        if resize is not None:
            self.chosen = {"resize": resize, "resampled_to": [self.width, self.height]}

    def read(self, x0: int, y0: int, x1: int, y1: int) -> np.ndarray:
        """Return a window (h, w, 3), uint8 RGB."""
        return self._image[y0:y1, x0:x1]

    def valid(self, x0: int, y0: int, x1: int, y1: int) -> np.ndarray | None:
        """Return None: all pixels have data."""
        return None

    def rows(self, first: int, last: int) -> np.ndarray:
        """Return rows ``first`` to ``last`` (excluded)."""
        return self._image[first:last]

    def close(self) -> None:
        """Free the image."""
        self._image = self._image[:0]


def _resized(image: np.ndarray, factor: float) -> np.ndarray:
    """Return an image (H, W, 3) with its sides multiplied: means of pixels, or cubic, as rasters are resampled."""
    height, width = Resize(factor=factor).size(*image.shape[:2])
    if (height, width) == image.shape[:2]:
        return image
    # Pillow's box has whole pixels in it: it is a mean where they divide, and elsewhere misplaces by up to half of one.
    whole = image.shape[0] % height == 0 and image.shape[1] % width == 0
    shrinking = Image.Resampling.BOX if whole else Image.Resampling.HAMMING
    method = shrinking if factor < 1 else Image.Resampling.BICUBIC
    return np.asarray(Image.fromarray(image).resize((width, height), method))


def is_url(path: str | os.PathLike[str]) -> bool:
    """Return whether a path is a URL, or one of GDAL's virtual files."""
    return bool(re.match(r"[A-Za-z][A-Za-z0-9+.-]*://|/vsi", os.fspath(path)))


def time_of(path: str) -> str:
    """Return when an image was taken, by its EXIF or TIFF tags, ISO 8601; empty if it does not say."""
    with suppress(Exception), pillow_unlimited(), Image.open(path) as image:
        exif = image.getexif()
        return iso_time(str(exif.get_ifd(0x8769).get(36867) or exif.get(306) or ""))
    return ""


def iso_time(text: str) -> str:
    """Return a time as EXIF, TIFF or GDAL write it, ``2024:05:31 10:11:12``, as ISO 8601; empty if it is none."""
    found = re.fullmatch(r"(\d{4})[:-](\d\d)[:-](\d\d)[ T](\d\d):(\d\d):(\d\d)\S*", text.strip("\0 "))
    return "{}-{}-{}T{}:{}:{}".format(*found.groups()) if found else ""


def parse_bands(text: str) -> tuple[int, ...]:
    """Read ``4,3,2``.

    Raises:
        ConfigError: it is none.
    """
    try:
        bands: Sequence[int] = [int(word) for word in text.split(",")]
    except ValueError as err:
        raise ConfigError(f"--bands {text}: write one band or three, such as 4,3,2.") from err
    return ReadSettings(bands=tuple(bands)).bands or ()
