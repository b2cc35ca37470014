"""Read rows of an image with rasterio (GDAL), which keeps one band in memory and knows every depth."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from d2tiny.data.loading import limits
from d2tiny.data.loading.headers import ImageHeader
from d2tiny.data.loading.stretch import Stretch, scale_to_bytes
from d2tiny.utils.errors import DatasetError

__all__ = ["GDAL_OPTIONS", "BandReader", "exact_type", "floating", "to_rgb"]

# GDAL_CACHEMAX is in bytes. With the PNG optimisation, GDAL would read the rest of a damaged file as zeros. Progressive
# JPEGs are kept in memory whole. Files beside an image (.aux.xml, .ovr) do not change it.
GDAL_OPTIONS: dict[str, Any] = {
    "GDAL_CACHEMAX": 32 << 20,
    "GDAL_PNG_WHOLE_IMAGE_OPTIM": "NO",
    "GDAL_ALLOW_LARGE_LIBJPEG_MEM_ALLOC": "YES",
    "GDAL_DISABLE_READDIR_ON_OPEN": "EMPTY_DIR",
    "GDAL_PAM_ENABLED": "NO",
}
# By the content of the file: others, such as VRT, could lead to further files.
_DRIVERS = {"TIFF": "GTiff", "PNG": "PNG", "JPEG": "JPEG", "JPEG2000": "JP2OpenJPEG", "PPM": "PNM"}
_STEP = 256  # rows that are read at once; more in narrow images
_STEP_PIXELS = 1 << 20
_SAMPLE = 4_000_000  # pixels from which percentiles are taken


class BandReader:
    """The rows of an image as they are stored, not turned, in 8-bit RGB."""

    def __init__(self, path: Path, header: ImageHeader, stretch: Stretch | None) -> None:
        """Open an image.

        Args:
            path: image file.
            header: of this file.
            stretch: scale of values that are not 8-bit.

        Raises:
            DatasetError: GDAL cannot read the image.
            ImportError: rasterio is not installed.
        """
        from d2tiny.utils.env import require_extra  # imports torch

        rasterio = require_extra("rasterio", "geo")
        self.path, self._header = path, header
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # rasterio warns about images without geographic coordinates
            try:
                with rasterio.Env(**GDAL_OPTIONS):
                    self._file: Any = rasterio.open(path, driver=_DRIVERS.get(header.kind, header.kind))
            except Exception as err:  # errors of GDAL have no public base class
                raise DatasetError(f"{path}: cannot read this image ({err}).") from err
        self.width, self.height = self._file.width, self._file.height
        self.step = max(_STEP, _STEP_PIXELS // self.width)
        self._bands = [1, 2, 3] if header.bands >= 3 else [1]
        self._limits = stretch.limits(self._sample(stretch)) if header.deep and stretch else np.zeros((0, 2))

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def rows(self, first: int, last: int) -> np.ndarray:
        """Return rows ``first`` to ``last`` (excluded) as (rows, W, 3) uint8 RGB.

        Raises:
            DatasetError: the file is damaged in these rows, or they do not fit into memory.
        """
        if (last - first) * self.width * 3 > limits.memory_limit():
            raise DatasetError(f"{self.path}: {last - first} rows of {self.width} px do not fit into memory.")
        if not self._header.deep:
            return to_rgb(self._read(first, last), self._file, 1)
        steps = range(first, last, self.step)
        parts = [scale_to_bytes(self._values(y, min(y + self.step, last)), self._limits) for y in steps]
        pixels = np.concatenate(parts) if parts else np.zeros((0, self.width, len(self._bands)), dtype=np.uint8)
        pixels = 255 - pixels if self._header.colours == "inverted grey" else pixels
        return np.ascontiguousarray(pixels if pixels.shape[2] == 3 else pixels.repeat(3, axis=2))

    def all_rows(self) -> np.ndarray:
        """Return the whole image, (H, W, 3) uint8 RGB."""
        result = np.empty((self.height, self.width, 3), dtype=np.uint8)
        for y in range(0, self.height, self.step):
            result[y : y + self.step] = self.rows(y, min(y + self.step, self.height))
        return result

    def _read(self, first: int, last: int) -> np.ndarray:
        """Return the bands (C, rows, W) of some rows as they are stored."""
        import rasterio
        from rasterio.windows import Window

        try:
            with rasterio.Env(**GDAL_OPTIONS):
                return self._file.read(self._bands, window=Window(0, first, self.width, last - first))
        except Exception as err:
            raise DatasetError(f"{self.path}: cannot read rows {first} to {last} ({err}).") from err

    def _values(self, first: int, last: int) -> np.ndarray:
        """Return rows (rows, W, C) in floating point, NaN where there is no data."""
        return floating(self._read(first, last), [self._file.nodatavals[index - 1] for index in self._bands])

    def _sample(self, stretch: Stretch) -> np.ndarray:
        """Return pixels (N, C) of a regular grid, of all rows and columns in small images."""
        if not stretch.percent:
            return np.zeros((0, len(self._bands)))
        step = math.ceil(math.sqrt(self.width * self.height / _SAMPLE))
        parts = []
        block = step * max(1, self.step // step)
        for y in range(0, self.height, block):
            rows = self._values(y, min(y + block, self.height))[::step, ::step]
            parts.append(rows.reshape(-1, rows.shape[2]))
        return np.concatenate(parts)


def exact_type(dtype: np.dtype[Any]) -> type[np.floating[Any]]:
    """Return the floating point type that holds all values of a type."""
    return np.float32 if dtype.itemsize <= 2 or dtype == np.float32 else np.float64


def floating(bands: np.ndarray, nodata: Sequence[float | None]) -> np.ndarray:
    """Return values in floating point, NaN where there is no data.

    Args:
        bands: (C, rows, W).
        nodata: value of each band that stands for no data; None for none.

    Returns:
        (rows, W, C), float32 where that is exact.
    """
    values = bands.transpose(1, 2, 0).astype(exact_type(bands.dtype))
    for band, value in enumerate(nodata):
        if value is not None:
            values[..., band][bands[band] == value] = np.nan
    return values


def to_rgb(bands: np.ndarray, file: Any, first: int) -> np.ndarray:
    """Return 8-bit bands as RGB, with the colours of a palette, and fewer bits scaled to 0 to 255.

    Args:
        bands: (1, rows, W) or (3, rows, W) uint8.
        file: dataset of rasterio that they were read from.
        first: number of the first of these bands in the file, from 1.

    Returns:
        (rows, W, 3) uint8.
    """
    if bands.shape[0] == 1 and file.colorinterp[first - 1].name == "palette":
        table = np.zeros((256, 3), dtype=np.uint8)
        for index, color in file.colormap(first).items():
            table[index] = color[:3]
        return table[bands[0]]
    bits = int(file.tags(first, ns="IMAGE_STRUCTURE").get("NBITS", 8))
    if bits < 8:
        bands = (bands * (255 // (2**bits - 1))).astype(np.uint8)
    if bands.shape[0] == 1:
        bands = bands.repeat(3, axis=0)
    return np.ascontiguousarray(bands.transpose(1, 2, 0))
