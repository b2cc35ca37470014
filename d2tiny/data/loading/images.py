"""Read images with the fastest decoder that gives exactly Detectron2's pixels, and cache decoded images."""

from __future__ import annotations

import hashlib
import logging
import os
import zlib
from collections.abc import Callable, Iterator
from functools import lru_cache
from pathlib import Path

import cv2
import numpy as np

from d2tiny.utils.errors import ConfigError, DatasetError
from d2tiny.utils.files import open_atomic

__all__ = ["DecodedCache", "read_image"]

logger = logging.getLogger(__name__)

_PNG, _JPEG = b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff"
_GRAY = (0, 4)  # PNG colour types: grey, grey with alpha
# Chunks with orientation and transparency; kornia-rs does not apply them.
_PNG_UNSUPPORTED = frozenset({b"eXIf", b"tRNS"})
_PNG_TEXTS = frozenset({b"tEXt", b"zTXt", b"iTXt"})
_ORIENTED = (b"XML:com.adobe.xmp", b"Raw profile type")


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


def _png_chunks(data: bytes) -> Iterator[tuple[bytes, int]]:
    """Yield the type of each chunk of a PNG and the offset of its content."""
    offset = 8
    while offset + 12 <= len(data):
        yield data[offset + 4 : offset + 8], offset + 8
        offset += 12 + int.from_bytes(data[offset : offset + 4], "big")


def _decode_png(data: bytes) -> np.ndarray | None:
    plain = data[24:29] == b"\x08\x02\0\0\0" and _plausible_size(data)  # 8-bit RGB, not interlaced
    for kind, offset in _png_chunks(data):
        if kind in _PNG_TEXTS and data[offset : offset + 40].startswith(_ORIENTED):
            return None  # only PIL applies an orientation of these texts
        plain &= kind not in _PNG_UNSUPPORTED
    decoder = _png_decoder()
    if plain and decoder is not None:
        try:
            return decoder(data)
        except Exception:  # damaged: the decoder of Detectron2 says what is wrong
            return None
    if data[24:25] == b"\x10" and data[25] in _GRAY:
        return None  # PIL converts 16-bit grey in another way than OpenCV
    return _decode_by_opencv(data)


def _plausible_size(data: bytes) -> bool:
    """Return whether a PNG's header is undamaged and the file is long enough for its pixels (deflate: up to 1032:1)."""
    width, height = (int.from_bytes(data[i : i + 4], "big") for i in (16, 20))
    return zlib.crc32(data[12:29]) == int.from_bytes(data[29:33], "big") and width * height * 3 <= 1032 * len(data)


def _decode_jpeg(data: bytes) -> np.ndarray | None:
    """Return the pixels; None for four components, which OpenCV rounds otherwise, or an XMP orientation."""
    offset = 2
    while offset + 10 <= len(data) and data[offset] == 0xFF:  # the segments before the frame
        marker = data[offset + 1]
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            odd = data[offset + 9] == 4 or data.find(b"tiff:Orientation", 0, offset) >= 0
            return None if odd else _decode_by_opencv(data)
        offset += 2 + int.from_bytes(data[offset + 2 : offset + 4], "big")
    return None  # no frame found


def _decode_by_opencv(data: bytes) -> np.ndarray | None:
    """Return RGB pixels after EXIF rotation; None if the file is damaged."""
    if hasattr(cv2, "IMREAD_COLOR_RGB"):
        return cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR_RGB)
    image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    return None if image is None else cv2.cvtColor(image, cv2.COLOR_BGR2RGB)


def _decode(data: bytes) -> np.ndarray | None:
    """Return RGB pixels, or None where only PIL gives the same pixels as Detectron2."""
    if data.startswith(_PNG):
        return _decode_png(data)
    return _decode_jpeg(data) if data.startswith(_JPEG) else None


def read_image(path: str | os.PathLike[str], image_format: str = "RGB") -> np.ndarray:
    """Read an image as ``detectron2.data.detection_utils.read_image`` does, in less time.

    JPEG and PNG are decoded by OpenCV (plain PNGs by kornia-rs where it is installed), everything else and every
    damaged file by Detectron2's own function, so that pixels and errors are the same.

    Args:
        path: image file.
        image_format: order of the channels, ``RGB`` or ``BGR``.

    Returns:
        (H, W, 3) uint8, writable.

    Raises:
        DatasetError: the image cannot be read; names the file.
    """
    try:
        with Path(path).open("rb", buffering=0) as file:
            image = _decode(file.read())
        if image is None:
            from detectron2.data import detection_utils  # slow to import, and rarely needed

            return np.array(detection_utils.read_image(os.fspath(path), format=image_format))
    except Exception as err:
        raise DatasetError(f"{os.fspath(path)}: cannot read this image ({err}).") from err
    return image if image_format == "RGB" else cv2.cvtColor(image, cv2.COLOR_RGB2BGR)


class DecodedCache:
    """A cache of decoded images on disk; reading them is fast while they are in the system's page cache.

    An image takes width × height × 3 bytes (800²: 1.9 MB). A file whose time or size changes is decoded again. Several
    processes may share a folder. Images are returned as copy-on-write memory maps: a crop reads only its own rows, and
    writing into an image does not change the cache.
    """

    def __init__(self, folder: str | os.PathLike[str], max_gb: float = 50.0) -> None:
        """Open or create a cache.

        Args:
            folder: folder of the cache; it may be deleted at any time.
            max_gb: size limit in GB; when it is reached, further images are decoded every time. Each process counts the
                files that existed when it started and those that it adds.

        Raises:
            ConfigError: ``max_gb`` is not positive.
        """
        if max_gb <= 0:
            raise ConfigError(f"max_gb must be positive, got {max_gb}.")
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
        key = f"{os.path.abspath(path)}|{state.st_mtime_ns}|{state.st_size}"  # noqa: PTH100  keeps symlinks
        file = self.folder / f"{hashlib.sha1(key.encode()).hexdigest()}.npy"
        try:
            return np.load(file, mmap_mode="c")
        except FileNotFoundError:
            pass
        except (OSError, ValueError, EOFError):
            logger.warning("%s: damaged, written anew.", file)
        image = read_image(path)
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
