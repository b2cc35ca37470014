"""Read large images in bands of rows, without decoding them at once."""

from __future__ import annotations

from pathlib import Path
from types import TracebackType

import cv2
import numpy as np

from d2tiny.data.loading.bands import BandReader
from d2tiny.data.loading.headers import ImageHeader, pixel_problem, read_header
from d2tiny.data.loading.images import read_image
from d2tiny.data.loading.limits import DECODED_PIXELS, bomb_problem
from d2tiny.data.loading.stretch import Stretch, StretchLike, make_stretch
from d2tiny.utils.errors import DatasetError

__all__ = ["RasterReader", "read_reduced"]


class RasterReader:
    """An image that is read in bands of rows, from top to bottom. A context manager.

    Images up to 40 megapixels are decoded as in training. Larger ones are read with rasterio (GDAL), which decodes PNG,
    JPEG and TIFF row by row, so that only one band is in memory. Large ones whose rows cannot be read so, because they
    are turned (EXIF orientation), CMYK or in other formats, are decoded at once. The pixels are those of
    :func:`~d2tiny.data.loading.images.read_image`; decoders of JPEG may round differently.

    Attributes:
        width: width of the image in px, upright.
        height: height of the image in px, upright.
    """

    def __init__(self, path: Path, max_decoded: int = DECODED_PIXELS, *, stretch: StretchLike = None) -> None:
        """Open an image.

        Args:
            path: image file.
            max_decoded: number of pixels up to which an image is decoded at once.
            stretch: scale of images that are not 8-bit, see :func:`~d2tiny.data.loading.images.read_image`.

        Raises:
            DatasetError: the image cannot be read, is not 8-bit, has bands other than grey or RGB, or claims more
                pixels than fit into memory.
            ConfigError: ``stretch`` is no pair of values or percentiles.
            ImportError: the image is larger than ``max_decoded`` and rasterio is not installed.
        """
        self.path = path
        self._image = np.zeros((0, 0, 3), dtype=np.uint8)
        self._file: BandReader | None = None
        self._band: tuple[int, np.ndarray] = (0, np.zeros((0, 0, 3), dtype=np.uint8))
        scale = make_stretch(stretch)
        try:
            header = read_header(path)
            claimed = bomb_problem(*header.size, path.stat().st_size)
        except (OSError, ValueError) as err:
            raise DatasetError(f"{path}: cannot read this image ({err}).") from err
        self.width, self.height = header.size
        if problem := claimed or pixel_problem(header, scale):
            raise DatasetError(f"{path}: {problem.detail}.")
        self._open(header, max_decoded, scale)

    def _open(self, header: ImageHeader, max_decoded: int, stretch: Stretch | None) -> None:
        bandable = header.orientation == 1 and (header.pixels.bandable or header.deep or not header.mode)
        if self.width * self.height <= max_decoded or not bandable:
            self._image = read_image(self.path, stretch=stretch)
            self.height, self.width = self._image.shape[:2]
        else:
            self._file = BandReader(self.path, header, stretch)

    def __enter__(self) -> RasterReader:
        """Return the reader."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the file."""
        if self._file is not None:
            self._file.close()
        self._image = self._image[:0]

    def rows(self, first: int, last: int) -> np.ndarray:
        """Return rows ``first`` to ``last`` (excluded) as (rows, W, 3) uint8 RGB.

        Raises:
            DatasetError: the file is damaged in these rows.
        """
        if self._file is None:
            return self._image[first:last]
        # Rows of the last band are kept: to read them again, decoders of PNG and JPEG would start from the top.
        start, kept = self._band
        fresh = max(first, start + len(kept))
        if not start <= first <= fresh < last:
            fresh, kept = first, kept[:0]
        band = self._file.rows(fresh, last)
        if len(kept):
            band = np.concatenate((kept[first - start :], band))
        self._band = (first, band)
        return band


def read_reduced(path: Path, side: int, *, stretch: StretchLike = None) -> tuple[np.ndarray, int]:
    """Read a small version of an image, of which a large one is never in memory as a whole.

    Args:
        path: image file.
        side: the longer side of the result is at least this, and less than twice this, in px, in images that are not
            smaller.
        stretch: scale of images that are not 8-bit, see :func:`~d2tiny.data.loading.images.read_image`.

    Returns:
        (H, W, 3) uint8 RGB, and by how much it is smaller: an integer, 1 for images up to ``2 * side``.

    Raises:
        DatasetError: the image cannot be read.
        ImportError: a large image needs rasterio, which is not installed.
    """
    with RasterReader(path, stretch=stretch) as reader:
        factor = max(1, max(reader.width, reader.height) // side)
        if factor == 1:
            return reader.rows(0, reader.height), 1
        # What is left of the last squares at the right and at the bottom is cut off.
        height, width = (max(1, side // factor) * factor for side in (reader.height, reader.width))
        step, parts = factor * max(1, 256 // factor), []
        for y in range(0, height, step):
            band = reader.rows(y, min(y + step, height, reader.height))[:, :width]
            size = max(1, band.shape[1] // factor), max(1, band.shape[0] // factor)
            parts.append(cv2.resize(band, size, interpolation=cv2.INTER_AREA))
        return np.concatenate(parts), factor
