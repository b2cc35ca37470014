"""Read large images in bands of rows, without decoding them at once."""

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

# GDAL_CACHEMAX is in bytes. With the PNG optimisation, GDAL would read the rest of a damaged file as zeros.
_GDAL = {"GDAL_CACHEMAX": 32 << 20, "GDAL_PNG_WHOLE_IMAGE_OPTIM": "NO"}
_DECODED_PIXELS = 40_000_000  # images up to this size are decoded at once (120 MB)


class RasterReader:
    """An image that is read in bands of rows, from top to bottom. A context manager.

    Images up to 40 megapixels are decoded as in training. Larger ones are read with rasterio (GDAL), which decodes PNG,
    JPEG and TIFF row by row, so that only one band is in memory.

    Attributes:
        width: width of the image in px.
        height: height of the image in px.
    """

    def __init__(self, path: Path, max_decoded: int = _DECODED_PIXELS) -> None:
        """Open an image.

        Args:
            path: image file.
            max_decoded: number of pixels up to which an image is decoded at once.

        Raises:
            DatasetError: the image cannot be read; or it is larger than ``max_decoded`` and not 8-bit or rotated by
                EXIF.
            ImportError: the image is larger than ``max_decoded`` and rasterio is not installed.
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
        if self.width * self.height <= max_decoded:
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
            warnings.simplefilter("ignore")  # rasterio warns about images without geographic coordinates
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
        """Return the reader."""
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
            DatasetError: the file is damaged in these rows.
        """
        if self._image is not None:
            return self._image[first:last]
        # Rows of the last band are kept: to read them again, decoders of PNG and JPEG would start from the top.
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
