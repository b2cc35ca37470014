"""A look at every image file before training starts, not in the middle of the night."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

from PIL import Image

from d2tiny.utils.errors import DatasetError

__all__ = ["ImageHeader", "check_image", "read_header", "verify_images"]

# How the formats end; a file cut short lacks it. JPEG may carry padding after it.
_TRAILERS = {"JPEG": b"\xff\xd9", "PNG": b"IEND"}
_EXIF_ORIENTATION = 0x0112
_pillow_limit = threading.Lock()  # Pillow's limit is a global


class ImageHeader(NamedTuple):
    """What a file's header says: (width, height) as decoders show it, format, EXIF orientation (1: as stored)."""

    size: tuple[int, int]
    kind: str
    orientation: int


def read_header(path: str | Path) -> ImageHeader:
    """Read the header of an image of any size.

    Raises:
        OSError: it is missing or no image.
        ValueError: its header is damaged.
    """
    with _pillow_limit:
        limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None  # large scenes are the point here
        try:
            image = Image.open(path)
        finally:
            Image.MAX_IMAGE_PIXELS = limit
    with image:
        width, height = image.size
        # Asking a PNG without the chunk would decode it whole.
        known = image.format == "JPEG" or "exif" in image.info
        orientation = int(image.getexif().get(_EXIF_ORIENTATION, 1)) if known else 1
        size = (height, width) if orientation in (5, 6, 7, 8) else (width, height)
        return ImageHeader(size, str(image.format), orientation)


def check_image(path: str, width: int, height: int) -> str | None:
    """Return what is wrong with an image file, or None.

    Reads header and end of the file, so it takes a fraction of a millisecond; damage in the middle of the pixel data
    is not seen.
    """
    try:
        size, kind, _ = read_header(path)
        trailer = _TRAILERS.get(kind)
        if trailer is not None:
            with Path(path).open("rb") as file:
                file.seek(0, 2)
                file.seek(max(0, file.tell() - 4096))
                whole = trailer in file.read()
            if not whole and not (kind == "JPEG" and _decodes(path)):
                return "cut short (the end of the image is missing)"
    except FileNotFoundError:
        return "missing"
    except (OSError, ValueError) as err:
        return f"unreadable ({err})"
    if size != (width, height):
        return f"{size[0]}x{size[1]} px, but the json says {width}x{height}"
    return None


def _decodes(path: str) -> bool:
    """Decode the whole image; for the rare file with data of others behind its end."""
    try:
        with Image.open(path) as image:
            image.load()
    except (OSError, ValueError, SyntaxError):
        return False
    return True


def verify_images(records: Sequence[dict[str, Any]], name: str) -> None:
    """Check that all images exist, can be read and have the size that the json states.

    Args:
        records: Detectron2 dataset dicts.
        name: the dataset's name, for the message.

    Raises:
        DatasetError: counts the broken files and names the first ten.
    """
    with ThreadPoolExecutor(8) as pool:
        results = pool.map(lambda r: check_image(r["file_name"], r["width"], r["height"]), records)
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
