"""Check image files by their header and end, so that training does not start with missing or broken images."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

from PIL import Image

from d2tiny.utils.errors import DatasetError

__all__ = ["IMAGE_SUFFIXES", "ImageHeader", "check_images", "decoding_problem", "image_problem", "read_header"]

IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp"})

# Last bytes of complete files; truncated files lack them. JPEG may carry padding after them.
_TRAILERS = {"JPEG": b"\xff\xd9", "PNG": b"IEND"}
_EXIF_ORIENTATION = 0x0112
_pillow_limit = threading.Lock()  # Pillow's limit is a global


class ImageHeader(NamedTuple):
    """The header of an image file: (width, height) in px after EXIF rotation, format, EXIF orientation (1: upright)."""

    size: tuple[int, int]
    kind: str
    orientation: int


def read_header(path: str | Path) -> ImageHeader:
    """Read the header of an image of any size.

    Raises:
        OSError: the file is missing or no image.
        ValueError: the header is damaged.
    """
    with _pillow_limit:
        limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None  # aerial scenes exceed it
        try:
            image = Image.open(path)
        finally:
            Image.MAX_IMAGE_PIXELS = limit
    with image:
        width, height = image.size
        # Asking a PNG without an EXIF chunk for its orientation would decode all its pixels.
        known = image.format == "JPEG" or "exif" in image.info
        orientation = int(image.getexif().get(_EXIF_ORIENTATION, 1)) if known else 1
        size = (height, width) if orientation in (5, 6, 7, 8) else (width, height)
        return ImageHeader(size, str(image.format), orientation)


def image_problem(path: str, width: int, height: int) -> str | None:
    """Return why an image file cannot be used, or None.

    Only the header and the end of the file are read, in a fraction of a millisecond; damage in the middle of the pixel
    data is not detected.

    Args:
        path: of the image.
        width: in px, as the json states it.
        height: likewise.
    """
    try:
        size, kind, _ = read_header(path)
        trailer = _TRAILERS.get(kind)
        if trailer is not None:
            with Path(path).open("rb") as file:
                file.seek(0, 2)
                file.seek(max(0, file.tell() - 4096))
                complete = trailer in file.read()
            # The end of a JPEG may be far from that of the file, behind which cameras store other data.
            if not complete and not (kind == "JPEG" and decoding_problem(path) is None):
                return "cut short (the end of the image is missing)"
    except FileNotFoundError:
        return "missing"
    except (OSError, ValueError) as err:
        return f"unreadable ({err})"
    if size != (width, height):
        return f"{size[0]}x{size[1]} px, but the json says {width}x{height}"
    return None


def decoding_problem(path: str | Path) -> str | None:
    """Decode all pixels of an image; return why that fails, or None."""
    try:
        with Image.open(path) as image:
            image.load()
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as err:
        return f"damaged ({err})"
    return None


def check_images(records: Sequence[dict[str, Any]], name: str) -> None:
    """Check that all images of a dataset exist, can be read and have the size that the json states.

    Args:
        records: Detectron2 dataset dicts.
        name: the dataset's name, for the message.

    Raises:
        DatasetError: counts the broken files and names the first ten.
    """
    with ThreadPoolExecutor(8) as pool:
        results = pool.map(lambda r: image_problem(r["file_name"], r["width"], r["height"]), records)
        bad = [
            f"  {record['file_name']}: {problem}" for record, problem in zip(records, results, strict=True) if problem
        ]
    if bad:
        more = f"\n  ... and {len(bad) - 10} more" if len(bad) > 10 else ""
        raise DatasetError(
            f"{len(bad)} of {len(records)} images of '{name}' are missing or broken:\n"
            + "\n".join(bad[:10])
            + more
            + "\nRestore these files or take them out of the json."
        )
