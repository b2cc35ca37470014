"""What the headers of TIFF, JPEG, PNG, JPEG 2000 and PNM files say about their pixels, where Pillow does not tell."""

from __future__ import annotations

import re
from typing import IO, Any, NamedTuple

from PIL import Image, TiffImagePlugin

__all__ = ["Pixels", "is_tiff", "jpeg_frame", "pixels_of", "tiff_pixels", "tiff_tags"]

_SAMPLES = {1: "uint", 2: "int", 3: "float", 4: "uint", 5: "complex", 6: "complex"}  # TIFF's SampleFormat
_PHOTOMETRIC = {0: "inverted grey", 1: "grey", 2: "RGB", 3: "palette", 5: "CMYK", 6: "YCbCr", 8: "Lab", 9: "Lab"}
_PNG_BANDS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}
_PNG_COLOURS = {0: "grey", 2: "RGB", 3: "palette", 4: "grey", 6: "RGB"}
_ALPHA = (1, 2)  # TIFF's ExtraSamples: associated and unassociated alpha
_JPEG_IN_TIFF = 7
_BANDABLE = frozenset({"1", "L", "LA", "P", "RGB", "RGBA", "RGBX"})  # modes of Pillow


class Pixels(NamedTuple):
    """How an image file stores its pixels.

    Attributes:
        bands: number of values of a pixel.
        dtype: of a value; ``uint8`` also for fewer bits, others by their bits, such as ``uint12`` or ``float32``.
        colours: ``grey``, ``inverted grey`` (white is 0), ``RGB``, ``palette``, ``CMYK``, ...; ``unknown`` for bands
            that the file does not name.
        bandable: rows that GDAL reads are those that Pillow decodes.
    """

    bands: int
    dtype: str
    colours: str
    bandable: bool


def is_tiff(start: bytes) -> bool:
    """Return whether a file that starts so is a TIFF or BigTIFF."""
    return start[:4] in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")


def tiff_tags(file: IO[bytes]) -> dict[int, Any]:
    """Return the tags of the first image of a TIFF.

    Raises:
        ValueError: there is no such table, or it has no size.
    """
    start = file.read(16)
    tags = TiffImagePlugin.ImageFileDirectory_v2(start if start[2:3] == b"+" or start[3:4] == b"+" else start[:8])
    file.seek(tags.next or 0)
    tags.load(file)
    found = dict(tags)
    if not all(isinstance(found.get(tag), int) and found[tag] > 0 for tag in (256, 257)):
        raise ValueError("this TIFF has no width and height")
    rows, offsets = found.get(278), found.get(273)
    if isinstance(rows, int) and rows > 0 and offsets is not None and len(_several(offsets)) < -(-found[257] // rows):
        raise ValueError(f"this TIFF has {len(_several(offsets))} strips of {rows} rows, but claims {found[257]} rows")
    return found


def tiff_pixels(tags: dict[int, Any], mode: str) -> Pixels:
    """Return how a TIFF stores its pixels.

    Args:
        tags: of the image.
        mode: Pillow's mode, empty if Pillow cannot read the file.
    """
    compression, photometric = tags.get(259, 1), tags.get(262, 0)
    extra, bits = _several(tags.get(338, ())), _several(tags.get(258, 1))
    bands = int(tags.get(277, 3 if compression == _JPEG_IN_TIFF and photometric in (2, 6) else 1))
    kind, depth = _SAMPLES.get(_several(tags.get(339, 1))[0], "undefined "), max(bits)
    dtype = "uint8" if kind == "uint" and depth <= 8 else f"{kind}{depth}"
    colours = _PHOTOMETRIC.get(photometric, "unknown")
    if colours == "grey" and bands == 3:
        colours = "RGB"  # as every viewer shows three bands without names
    elif bands > 4 or (colours == "grey" and bands != 1 and not (bands == 2 and extra and extra[0] in _ALPHA)):
        colours = "unknown"
    whole = colours in ("grey", "RGB", "palette") or (colours == "YCbCr" and compression == _JPEG_IN_TIFF)
    return Pixels(bands, dtype, colours, whole and 262 in tags and 1 not in extra and mode in _BANDABLE)


def _several(value: Any) -> tuple[Any, ...]:
    return value if isinstance(value, tuple) and value else (value,) if value != () else ()


def jpeg_frame(file: IO[bytes]) -> tuple[tuple[int, int], Pixels]:
    """Return (width, height) and pixels of a JPEG, also of 12 bits, which Pillow cannot read.

    Raises:
        ValueError: no frame was found.
    """
    file.seek(2)
    while len(head := file.read(4)) == 4 and head[0] == 0xFF:
        if 0xC0 <= head[1] <= 0xCF and head[1] not in (0xC4, 0xC8, 0xCC):
            precision, frame = *file.read(1), file.read(5)
            if len(frame) == 5:
                size = int.from_bytes(frame[2:4], "big"), int.from_bytes(frame[:2], "big")
                colours = {1: "grey", 3: "RGB", 4: "CMYK"}.get(frame[4], "unknown")
                return size, Pixels(frame[4], "uint8" if precision == 8 else f"uint{precision}", colours, False)
        file.seek(int.from_bytes(head[2:], "big") - 2, 1)
    raise ValueError("this JPEG has no frame")


def pixels_of(image: Image.Image, start: bytes) -> Pixels:
    """Return how a file that Pillow has opened, and that is no TIFF, stores its pixels.

    Args:
        image: of the file.
        start: the first kilobytes of the file.
    """
    bandable = image.format == "JPEG" and image.mode in ("L", "RGB")
    if image.format == "PNG":
        kind = start[25]
        dtype = "uint16" if start[24] == 16 else "uint8"
        return Pixels(_PNG_BANDS.get(kind, 3), dtype, _PNG_COLOURS.get(kind, "unknown"), dtype == "uint8")
    dtype = {"I": "int32", "F": "float32"}.get(image.mode) or ("uint16" if image.mode.startswith("I;16") else "uint8")
    if image.format in ("JPEG2000", "PPM"):
        bits = _jpeg2000_bits(start) if image.format == "JPEG2000" else _pnm_bits(start)
        dtype = f"uint{bits}" if bits > 8 else dtype
    bands = len(image.getbands())
    return Pixels(bands, dtype, {1: "grey", 2: "grey", 3: "RGB", 4: "RGB"}.get(bands, "unknown"), bandable)


def _jpeg2000_bits(start: bytes) -> int:
    """Return the bits of the first component, from the SIZ segment behind the start of the codestream."""
    place = start.find(b"\xff\x4f\xff\x51")
    return (start[place + 42] & 0x7F) + 1 if 0 <= place < len(start) - 42 else 8


def _pnm_bits(start: bytes) -> int:
    words = re.sub(rb"#[^\n]*", b"", start).split(maxsplit=4)
    deep = len(words) > 3 and words[0] in (b"P2", b"P3", b"P5", b"P6") and words[3].isdigit() and int(words[3]) > 255
    return 16 if deep else 8
