"""Read images with the fastest decoder that gives exactly Detectron2's pixels, and cache decoded images."""

from __future__ import annotations

import contextlib
import hashlib
import io
import logging
import os
import zlib
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path

import numpy as np
from PIL import Image

from d2tiny.data.loading.headers import PNG_TEXTS, exif_orientation, pixel_problem, png_chunks, read_header
from d2tiny.data.loading.limits import claim_problem, pillow_unlimited, require_regular_file, size_problem
from d2tiny.data.loading.stretch import Stretch, StretchLike, make_stretch
from d2tiny.utils.errors import ConfigError, DatasetError
from d2tiny.utils.files import open_atomic

try:
    import cv2
except ImportError:  # Pillow reads the same pixels, in more time
    cv2 = None  # type: ignore[assignment]

__all__ = ["DecodedCache", "read_image", "turn_upright"]

logger = logging.getLogger(__name__)

_PNG, _JPEG = b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff"
_EXIF = b"Exif\0\0"
_ORIENTED = (b"XML:com.adobe.xmp", b"Raw profile type")
_CACHE_VERSION = 2  # raised when the pixels of any image change: 2, TIFFs are turned once, deep images are scaled
_TURNS: dict[int, Callable[[np.ndarray], np.ndarray]] = {
    2: lambda image: image[:, ::-1],
    3: lambda image: image[::-1, ::-1],
    4: lambda image: image[::-1],
    5: lambda image: image.transpose(1, 0, 2),
    6: lambda image: image[::-1].transpose(1, 0, 2),
    7: lambda image: image[::-1, ::-1].transpose(1, 0, 2),
    8: lambda image: image[:, ::-1].transpose(1, 0, 2),
}


def turn_upright(image: np.ndarray, orientation: int) -> np.ndarray:
    """Return an image (H, W, C) as its EXIF orientation, 1 to 8, tells to show it; contiguous."""
    return np.ascontiguousarray(_TURNS[orientation](image)) if orientation in _TURNS else image


@lru_cache(maxsize=1)
def _png_decoder() -> Callable[[bytes], np.ndarray] | None:
    """Return the decoder of kornia-rs, more than twice as fast as OpenCV, or None if it is not installed (optional)."""
    try:
        from kornia_rs.io import decode_image_png_u8
    except ImportError:
        return None

    def decode(data: bytes) -> np.ndarray:
        width, height = (int.from_bytes(data[i : i + 4], "big") for i in (16, 20))
        return np.asarray(decode_image_png_u8(data, (height, width), "rgb"))

    return decode


def _decode_png(data: bytes) -> np.ndarray | None:
    if data[24:25] == b"\x10":
        return None  # 16 bits
    width, height = (int.from_bytes(data[i : i + 4], "big") for i in (16, 20))
    # 8-bit RGB, not interlaced
    plain = data[24:29] == b"\x08\x02\0\0\0" and _plausible_size(data) and not size_problem(width, height)
    orientation, kind = 1, b""
    for kind, content in png_chunks(io.BytesIO(data), 1 << 16):
        if kind in PNG_TEXTS and content.startswith(_ORIENTED):
            return None  # only PIL applies an orientation of these texts
        if kind == b"eXIf":
            place = data.find(kind + content) + 4 + len(content)
            if zlib.crc32(kind + content) != int.from_bytes(data[place : place + 4], "big"):
                return None  # damaged
            orientation = _orientation(content)
        plain &= kind != b"tRNS"  # kornia-rs does not know transparency
    if kind != b"IEND":
        return None  # a chunk claims more bytes than there are, which OpenCV would reserve and fill
    decoder = _png_decoder()
    if plain and decoder is not None:
        try:
            return turn_upright(decoder(data), orientation)
        except Exception:  # damaged: the decoder of Detectron2 says what is wrong
            return None
    image = _decode_by_opencv(data, width, height)
    return None if image is None else turn_upright(image, orientation)


def _orientation(exif: bytes) -> int:
    block = Image.Exif()
    with contextlib.suppress(Exception):  # damaged: not turned, see exif_orientation
        block.load(exif)
    return exif_orientation(block)


def _plausible_size(data: bytes) -> bool:
    """Return whether a PNG's header is undamaged and the file is long enough for its pixels (deflate: up to 1032:1)."""
    width, height = (int.from_bytes(data[i : i + 4], "big") for i in (16, 20))
    return zlib.crc32(data[12:29]) == int.from_bytes(data[29:33], "big") and width * height * 3 <= 1032 * len(data)


def _decode_jpeg(data: bytes) -> np.ndarray | None:
    """Return the pixels; None where only PIL reads the same: not three components of 8 bits, an XMP orientation."""
    offset, size, orientation = 2, None, None
    while offset + 10 <= len(data) and data[offset] == 0xFF:
        marker = data[offset + 1]
        if marker == 0xDA:  # the pixels follow
            if size is None or data.find(b"tiff:Orientation", 0, offset) >= 0:
                return None
            image = _decode_by_opencv(data, *size)
            return None if image is None else turn_upright(image, orientation or 1)
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            if data[offset + 4] != 8 or data[offset + 9] == 4:  # OpenCV rounds four components otherwise
                return None
            size = (
                int.from_bytes(data[offset + 7 : offset + 9], "big"),
                int.from_bytes(data[offset + 5 : offset + 7], "big"),
            )
        length = int.from_bytes(data[offset + 2 : offset + 4], "big")
        if marker == 0xE1 and data.startswith(_EXIF, offset + 4):
            if orientation is not None:
                return None  # two blocks, which PIL joins
            orientation = _orientation(data[offset + 4 : offset + 2 + length])
        offset += 2 + length
    return None  # no frame found


def _decode_by_opencv(data: bytes, width: int, height: int) -> np.ndarray | None:
    """Return RGB pixels, not turned; None if the file is damaged or too large, or OpenCV is not installed."""
    if cv2 is None or size_problem(width, height):
        return None
    flags = cv2.IMREAD_IGNORE_ORIENTATION
    try:
        if hasattr(cv2, "IMREAD_COLOR_RGB"):
            return cv2.imdecode(np.frombuffer(data, np.uint8), flags | cv2.IMREAD_COLOR_RGB)
        image = cv2.imdecode(np.frombuffer(data, np.uint8), flags | cv2.IMREAD_COLOR)
    except cv2.error:  # over OpenCV's own limit of 2^30 pixels
        return None
    return None if image is None else cv2.cvtColor(image, cv2.COLOR_BGR2RGB)


def _decode(data: bytes) -> np.ndarray | None:
    """Return RGB pixels, or None where only PIL gives the same pixels as Detectron2."""
    if data.startswith(_PNG):
        return _decode_png(data)
    return _decode_jpeg(data) if data.startswith(_JPEG) else None


def read_image(path: str | os.PathLike[str], image_format: str = "RGB", *, stretch: StretchLike = None) -> np.ndarray:
    """Read an image as ``detectron2.data.detection_utils.read_image`` does, in less time, or refuse it.

    JPEG and PNG are decoded by OpenCV where it is installed (plain PNGs by kornia-rs where that is), other files and
    damaged ones by Pillow, to the same pixels. Unlike Detectron2, TIFFs are turned once by their orientation, and
    values of 16 bits, floating point and other depths are scaled as told or refused.

    Args:
        path: image file.
        image_format: order of the channels, ``RGB`` or ``BGR``.
        stretch: values, or percentiles, that become 0 and 255 in images that are not 8-bit, such as ``"0,4095"`` or
            ``"2%,98%"``; needs rasterio. 8-bit images are read as they are.

    Returns:
        (H, W, 3) uint8, writable, upright.

    Raises:
        DatasetError: the image cannot be read, is not 8-bit, has bands other than grey or RGB, or takes more than half
            of the memory; names the file.
        ConfigError: ``stretch`` is no pair of values or percentiles.
        ImportError: the image needs rasterio, which is not installed.
    """
    scale = make_stretch(stretch)
    try:
        require_regular_file(path)
        with Path(path).open("rb", buffering=0) as file:
            image = _decode(file.read())
        if image is None:
            image = _decode_other(Path(path), scale)
    except (DatasetError, ImportError):
        raise
    except Exception as err:
        raise DatasetError(f"{os.fspath(path)}: cannot read this image ({err}).") from err
    if image_format == "RGB":
        return image
    return np.ascontiguousarray(image[:, :, ::-1]) if cv2 is None else cv2.cvtColor(image, cv2.COLOR_RGB2BGR)


def _decode_other(path: Path, stretch: Stretch | None) -> np.ndarray:
    """Return the upright RGB pixels of any file that Pillow or GDAL reads."""
    header = read_header(path)
    if problem := claim_problem(*header.size, path.stat().st_size):
        raise DatasetError(f"{path}: cannot read this image ({problem.detail}).")
    if problem := pixel_problem(header, stretch):
        raise DatasetError(f"{path}: {problem.detail}.")
    if header.deep or not header.mode:
        from d2tiny.data.loading.bands import BandReader  # rarely needed

        with contextlib.closing(BandReader(path, header, stretch)) as bands:
            return turn_upright(bands.all_rows(), header.orientation)
    # Not by the path: what Pillow maps into memory, uncompressed TIFFs, it does not turn.
    with pillow_unlimited(), path.open("rb") as file, Image.open(file) as image:
        if image.format == "PNG":  # of which Detectron2 reads pixels also where what follows them is damaged
            image.load_end = lambda: None  # type: ignore[method-assign]
        image.load()
        # Pillow turns TIFFs when it decodes them.
        orientation = 1 if image.format == "TIFF" else header.orientation
        return turn_upright(np.array(image.convert("RGB")), orientation)


class DecodedCache:
    """A cache of decoded images on disk; reading them is fast while they are in the system's page cache.

    An image takes width × height × 3 bytes (800²: 1.9 MB). A file whose time or size changes is decoded again. Several
    processes may share a folder. Images are returned as copy-on-write memory maps: a crop reads only its own rows, and
    writing into an image does not change the cache.
    """

    def __init__(self, folder: str | os.PathLike[str], max_gb: float = 50.0, *, stretch: StretchLike = None) -> None:
        """Open or create a cache.

        Args:
            folder: folder of the cache; it may be deleted at any time.
            max_gb: size limit in GB; when it is reached, further images are decoded every time. Each process counts the
                files that existed when it started and those that it adds.
            stretch: scale of images that are not 8-bit, see :func:`read_image`.

        Raises:
            ConfigError: ``max_gb`` is not positive, or ``stretch`` is no pair of values or percentiles.
        """
        if max_gb <= 0:
            raise ConfigError(f"max_gb must be positive, got {max_gb}.")
        self._stretch = make_stretch(stretch)
        self.folder = Path(folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        self._limit = int(max_gb * 1e9)
        self._used = sum(f.stat().st_size for f in self.folder.glob("*.npy"))

    def read(self, path: str | os.PathLike[str]) -> np.ndarray:
        """Return an image, (H, W, 3) uint8 RGB.

        Raises:
            DatasetError: the image cannot be read.
        """
        try:
            state = Path(path).stat()
        except OSError as err:
            raise DatasetError(f"{os.fspath(path)}: cannot read this image ({err}).") from err
        where = os.path.abspath(path)  # noqa: PTH100  keeps symlinks
        key = f"{_CACHE_VERSION}|{where}|{state.st_mtime_ns}|{state.st_size}|{self._stretch or ''}"
        file = self.folder / f"{hashlib.sha1(key.encode()).hexdigest()}.npy"
        try:
            return np.load(file, mmap_mode="c")
        except FileNotFoundError:
            pass
        except (OSError, ValueError, EOFError):
            logger.warning("%s: damaged, written anew.", file)
        image = read_image(path, stretch=self._stretch)
        if self._used + image.nbytes <= self._limit:
            self._store(file, image)
        return image

    def _store(self, path: Path, image: np.ndarray) -> None:
        try:
            with open_atomic(path) as file:
                np.save(file, image)
        except OSError as err:
            logger.warning("%s: no longer filled (%s).", self.folder, err)
            self._limit = 0
            return
        self._used += image.nbytes
        if self._used + image.nbytes > self._limit:
            logger.warning("%s has reached its limit of %.1f GB.", self.folder, self._limit / 1e9)
