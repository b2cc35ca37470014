"""Windows of large images without holding the whole image."""

from __future__ import annotations

import warnings
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from d2tiny.data.loading.headers import read_header
from d2tiny.data.loading.images import read_image
from d2tiny.utils.errors import DatasetError

__all__ = ["RasterReader"]

# Bytes; and no reading of PNGs as a whole, which takes the rest of a damaged file for zeros.
_GDAL = {"GDAL_CACHEMAX": 32 << 20, "GDAL_PNG_WHOLE_IMAGE_OPTIM": "NO"}
_WHOLE_PIXELS = 40_000_000  # up to here an image is simply decoded (120 MB)


class RasterReader:
    """An image that is read in bands from top to bottom.

    Images up to 40 megapixels are decoded as training decodes them. Larger ones are read through rasterio (GDAL), which
    decodes PNG, JPEG and TIFF line by line, so that memory is that of the band. A context manager.

    Attributes:
        width: px.
        height: px.
    """

    def __init__(self, path: Path, whole_pixels: int = _WHOLE_PIXELS) -> None:
        """Open an image.

        Args:
            path: of the file.
            whole_pixels: up to so many pixels are decoded at once.

        Raises:
            DatasetError: it cannot be read; or it is large, and not 8-bit or turned by EXIF.
            ImportError: it is large and rasterio is not installed.
        """
        self.path = path
        self._image: np.ndarray | None = None
        self._file: Any = None
        self._band: tuple[int, np.ndarray] = (0, np.zeros((0, 0, 3), dtype=np.uint8))
        try:
            header = read_header(path)
        except (OSError, ValueError) as err:
            raise DatasetError(f"{path}: cannot read this image ({err}).") from err
        self.width, self.height = header.size
        if self.width * self.height <= whole_pixels:
            self._image = read_image(path)
        elif header.orientation != 1:
            raise DatasetError(
                f"{path}: turned by its camera (EXIF orientation {header.orientation}), which bands of a large image "
                "cannot follow; store it upright first, for example with `mogrify -auto-orient`."
            )
        else:
            self._open_large()

    def _open_large(self) -> None:
        from d2tiny.utils.env import require_extra  # imports torch

        rasterio = require_extra("rasterio", "geo")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # images without coordinates are normal here
            try:
                with rasterio.Env(**_GDAL):
                    self._file = rasterio.open(self.path)
            except rasterio.errors.RasterioIOError as err:
                raise DatasetError(f"{self.path}: cannot read this image ({err}).") from err
        if set(self._file.dtypes) != {"uint8"}:
            raise DatasetError(
                f"{self.path}: its values are {self._file.dtypes[0]}; make it 8-bit first, for example with "
                "`gdal_translate -ot Byte -scale`."
            )

    def __enter__(self) -> RasterReader:
        """Return itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the file."""
        if self._file is not None:
            self._file.close()
        self._image = None

    def rows(self, first: int, last: int) -> np.ndarray:
        """Return rows ``first`` to ``last`` (excluded) as (rows, W, 3) uint8 RGB.

        Raises:
            DatasetError: the file is damaged there.
        """
        if self._image is not None:
            return self._image[first:last]
        # Rows of the last band are not read again: decoders of single lines would start from the top for them.
        start, kept = self._band
        fresh = max(first, start + len(kept))
        if not start <= first <= fresh < last:
            fresh, kept = first, kept[:0]
        band: np.ndarray = self._read(fresh, last)
        if len(kept):
            band = np.concatenate((kept[first - start :], band))
        self._band = (first, band)
        return band

    def _read(self, first: int, last: int) -> np.ndarray:
        import rasterio
        from rasterio.windows import Window

        try:
            with rasterio.Env(**_GDAL):
                bands = self._file.read(window=Window(0, first, self.width, last - first))
        except rasterio.errors.RasterioError as err:
            raise DatasetError(f"{self.path}: cannot read rows {first} to {last} ({err}).") from err
        if bands.shape[0] == 1 and self._file.colorinterp[0].name == "palette":
            table = np.zeros((256, 3), dtype=np.uint8)
            for index, color in self._file.colormap(1).items():
                table[index] = color[:3]
            return table[bands[0]]
        if bands.shape[0] < 3:
            bits = int(self._file.tags(1, ns="IMAGE_STRUCTURE").get("NBITS", 8))
            bands = (bands[:1] * (255 // (2**bits - 1))).astype(np.uint8).repeat(3, axis=0)
        return np.ascontiguousarray(bands[:3].transpose(1, 2, 0))
