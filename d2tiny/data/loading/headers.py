"""Check image files by their header and end, so that training does not start with missing or broken images."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import IO, Any, NamedTuple

from PIL import Image

from d2tiny.data.loading.formats import Pixels, is_tiff, jpeg_frame, pixels_of, tiff_pixels, tiff_tags
from d2tiny.data.loading.limits import DECODED_PIXELS, Problem, claim_problem, pillow_unlimited, require_regular_file
from d2tiny.data.loading.stretch import StretchLike, make_stretch
from d2tiny.utils.errors import DatasetError

__all__ = [
    "IMAGE_SUFFIXES",
    "PNG_TEXTS",
    "ImageHeader",
    "check_images",
    "decoding_problem",
    "exif_orientation",
    "image_problem",
    "pixel_problem",
    "png_chunks",
    "read_header",
]

IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp"})

# Last bytes of complete files; truncated files lack them. JPEG may carry padding after them.
_TRAILERS = {"JPEG": b"\xff\xd9", "PNG": b"IEND"}
_EXIF_ORIENTATION = 0x0112
PNG_TEXTS = frozenset({b"tEXt", b"zTXt", b"iTXt"})
# Where a PNG may say how it is turned; usually before its pixels.
_PNG_ORIENTED = (b"eXIf", b"XML:com.adobe.xmp", b"Raw profile type")
_TAIL = 1 << 17  # bytes at the end of a PNG in which they are looked for


class ImageHeader(NamedTuple):
    """The header of an image file.

    Attributes:
        size: (width, height) in px after EXIF rotation.
        kind: Pillow's name of the format, ``JPEG`` also for several in one file.
        orientation: EXIF orientation, 1 (upright) to 8.
        pixels: how they are stored.
        mode: Pillow's mode; empty if Pillow cannot read the file.
    """

    size: tuple[int, int]
    kind: str
    orientation: int
    pixels: Pixels
    mode: str

    @property
    def deep(self) -> bool:
        """Whether values have more than 8 bits, a sign or a fraction."""
        return self.pixels.dtype != "uint8"

    @property
    def bands(self) -> int:
        """Number of values of a pixel."""
        return self.pixels.bands

    @property
    def colours(self) -> str:
        """Meaning of the bands, see :class:`~d2tiny.data.loading.formats.Pixels`."""
        return self.pixels.colours


def read_header(path: str | Path) -> ImageHeader:
    """Read the header of an image of any size and depth.

    Raises:
        OSError: the file is missing or no image.
        ValueError: the header is damaged.
    """
    require_regular_file(path)
    with Path(path).open("rb") as file:
        start = file.read(4096)
        try:
            file.seek(0)
            return _tiff_header(path, file) if is_tiff(start) else _header(path, file, start)
        except (OSError, ValueError):
            raise
        except Exception as err:  # Pillow's plugins raise what the damage leads to
            raise ValueError(f"damaged header: {err!r}") from err


def _header(path: str | Path, file: IO[bytes], start: bytes) -> ImageHeader:
    with pillow_unlimited():
        try:
            image = Image.open(path)
        except OSError:
            if not start.startswith(b"\xff\xd8\xff"):
                raise
            size, pixels = jpeg_frame(file)
            return ImageHeader(size, "JPEG", 1, pixels, "")
        with image:
            orientation = _png_orientation(image, file) if image.format == "PNG" else exif_orientation(image)
            kind = "JPEG" if image.format == "MPO" else str(image.format)
            return ImageHeader(_turned(image.size, orientation), kind, orientation, pixels_of(image, start), image.mode)


def _tiff_header(path: str | Path, file: IO[bytes]) -> ImageHeader:
    """Read the header of a TIFF, also of one that Pillow cannot read; its size is that of the stored pixels, turned."""
    tags = tiff_tags(file)
    mode, orientation = "", tags.get(_EXIF_ORIENTATION, 1)
    try:
        if tags.get(277, 1) > 4:
            raise ValueError("Pillow would say so in the log")
        with pillow_unlimited(), Image.open(path) as image:
            mode, orientation = image.mode, exif_orientation(image)
    except Exception:  # bands or compression that Pillow does not know
        orientation = int(orientation) if orientation in range(1, 9) else 1
    return ImageHeader(_turned((tags[256], tags[257]), orientation), "TIFF", orientation, tiff_pixels(tags, mode), mode)


def exif_orientation(image: Image.Image | Image.Exif) -> int:
    """Return the EXIF orientation, 1 to 8, as every reader obeys it: 1 also if it is damaged or no such number."""
    try:
        # Not that of PngImageFile, which decodes all pixels first.
        block = image if isinstance(image, Image.Exif) else Image.Image.getexif(image)
        value = block.get(_EXIF_ORIENTATION, 1)
        return int(value) if value in range(1, 9) else 1
    except Exception:  # as Detectron2: damaged EXIF data does not make the image unusable
        return 1


def _turned(size: tuple[int, int], orientation: int) -> tuple[int, int]:
    return size[::-1] if orientation >= 5 else size


def _png_orientation(image: Image.Image, file: IO[bytes]) -> int:
    """Return the orientation of an opened PNG; what follows the pixels is known to Pillow only after decoding them."""
    if "exif" not in image.info:
        file.seek(0, 2)
        file.seek(max(0, file.tell() - _TAIL))
        end = file.read()
        if any(word in end for word in _PNG_ORIENTED) and _oriented_behind(file):
            with contextlib.suppress(Exception):  # damage that the readers of pixels judge
                image.load()
    return exif_orientation(image)


def _oriented_behind(file: IO[bytes]) -> bool:
    """Return whether a PNG says how it is turned behind its pixels."""
    behind = False
    for kind, content in png_chunks(file):
        behind |= kind == b"IDAT"
        if behind and (kind == b"eXIf" or (kind in PNG_TEXTS and content.startswith(_PNG_ORIENTED[1:]))):
            return True
    return False


def png_chunks(file: IO[bytes], first: int = 40) -> Iterator[tuple[bytes, bytes]]:
    """Yield the type of each chunk of a PNG, and the first bytes of its content."""
    file.seek(8)
    while len(head := file.read(8)) == 8:
        length = int.from_bytes(head[:4], "big")
        content = file.read(min(first, length))
        yield head[4:], content
        file.seek(length - len(content) + 4, 1)


def pixel_problem(header: ImageHeader, stretch: StretchLike = None) -> Problem | None:
    """Return why the pixels of an image cannot become 8-bit RGB, and what to do, or None.

    Args:
        header: of the image.
        stretch: scale of values that are not 8-bit, see :func:`~d2tiny.data.loading.stretch.make_stretch`.
    """
    bands, dtype, colours, _ = header.pixels
    # Of two bands without a name, Pillow would show the first.
    by_pillow = header.mode and not header.deep and bands <= 4 and not (bands == 2 and colours == "unknown")
    by_gdal = colours in ("grey", "inverted grey", "RGB") or (colours == "YCbCr" and not header.deep)
    if not by_pillow and not by_gdal:
        return Problem("not RGB", f"this {header.kind} has {_count(bands)} of {dtype}, {_rgb_advice(header)}")
    if dtype.startswith(("complex", "undefined")):
        return Problem("not 8-bit", f"its values are {dtype}; store what is to be seen of them in 8 bits first")
    if header.deep and make_stretch(stretch) is None:
        return Problem(
            "not 8-bit",
            f"its values are {dtype}; make it 8-bit first, for example with `gdal_translate -ot Byte -scale`, or say "
            "which values become black and white: --stretch 0,4095, or percentiles: --stretch 2%,98% (in Python and "
            f"configs: stretch); it has {_count(bands)}",
        )
    return None


def _count(bands: int) -> str:
    return "1 band" if bands == 1 else f"{bands} bands"


def _rgb_advice(header: ImageHeader) -> str:
    """Return what a file's bands are, and how to make it RGB."""
    deep = " -ot Byte -scale" if header.deep else ""
    if header.colours != "unknown":
        return f"stored as {header.colours}; convert it to 8-bit RGB first, for example with `magick IN OUT.png`"
    if header.bands < 3:
        return f"and the second is no alpha; choose one, for example with `gdal_translate{deep} -b 1`"
    return (
        "which it does not name as red, green and blue; choose three (here 3, 2, 1), for example with "
        f"`gdal_translate{deep} -b 3 -b 2 -b 1 -co PHOTOMETRIC=RGB`"
    )


def image_problem(path: str, width: int, height: int, stretch: StretchLike = None) -> str | None:
    """Return why an image file cannot be used, or None.

    Only the header and the end of the file are read, in a fraction of a millisecond; damage in the middle of the pixel
    data is not detected.

    Args:
        path: of the image.
        width: in px, as the json states it.
        height: likewise.
        stretch: scale of values that are not 8-bit.

    Raises:
        ConfigError: ``stretch`` is no pair of values or percentiles.
    """
    stretch = make_stretch(stretch)
    try:
        header = read_header(path)
        if found := claim_problem(*header.size, Path(path).stat().st_size) or pixel_problem(header, stretch):
            return f"{found.kind} ({found.detail})"
        if not header.mode and (problem := decoding_problem(path, stretch)):
            return problem
        trailer = _TRAILERS.get(header.kind)
        if trailer is not None:
            with Path(path).open("rb") as file:
                file.seek(0, 2)
                file.seek(max(0, file.tell() - 4096))
                complete = trailer in file.read()
            # The end of a JPEG may be far from that of the file, behind which cameras store other data.
            if not complete and not (header.kind == "JPEG" and decoding_problem(path) is None):
                return "cut short (the end of the image is missing)"
    except FileNotFoundError:
        return "missing"
    except (OSError, ValueError) as err:
        return f"unreadable ({err})"
    if header.size != (width, height):
        return f"{header.size[0]}x{header.size[1]} px, but the json says {width}x{height}"
    return None


def decoding_problem(path: str | Path, stretch: StretchLike = None) -> str | None:
    """Decode all pixels of an image as every reader does, large ones in bands; return why that fails, or None.

    Raises:
        ConfigError: ``stretch`` is no pair of values or percentiles.
    """
    stretch = make_stretch(stretch)
    try:
        header = read_header(path)
        if found := claim_problem(*header.size, Path(path).stat().st_size):
            return f"{found.kind} ({found.detail})"
        plain = bool(header.mode) and not header.deep
        if not plain or header.size[0] * header.size[1] > DECODED_PIXELS:
            try:
                _decode_in_bands(Path(path), stretch)
                return None
            except ImportError as err:  # rasterio is not installed
                if not plain:
                    return f"unreadable ({err})"
        with pillow_unlimited(), Path(path).open("rb") as file, Image.open(file) as image:
            image.load()
    except (OSError, ValueError, SyntaxError) as err:
        return f"damaged ({err})"
    return None


def _decode_in_bands(path: Path, stretch: StretchLike) -> None:
    from d2tiny.data.loading.raster import RasterReader  # reads headers

    with RasterReader(path, stretch=stretch) as reader:
        step = max(256, (1 << 20) // reader.width)
        for y in range(0, reader.height, step):
            reader.rows(y, min(y + step, reader.height))


def check_images(records: Sequence[dict[str, Any]], name: str, stretch: StretchLike = None) -> None:
    """Check that all images of a dataset exist, can be read and have the size that the json states.

    Args:
        records: Detectron2 dataset dicts.
        name: the dataset's name, for the message.
        stretch: scale of values that are not 8-bit.

    Raises:
        DatasetError: counts the broken files and names the first ten.
    """
    with ThreadPoolExecutor(8) as pool:
        results = pool.map(lambda r: image_problem(r["file_name"], r["width"], r["height"], stretch), records)
        bad = [
            f"  {record['file_name']}: {problem}" for record, problem in zip(records, results, strict=True) if problem
        ]
    if bad:
        folder = Path(records[0]["file_name"]).parent
        advice = "Restore these files or take them out of the json."
        if not any(Path(record["file_name"]).exists() for record in records):
            advice = f"None of them is there: is {folder} the folder of the images? It was registered with the json."
        more = f"\n  ... and {len(bad) - 10} more" if len(bad) > 10 else ""
        raise DatasetError(
            f"{len(bad)} of {len(records)} images of '{name}' are missing or broken:\n"
            + "\n".join(bad[:10])
            + more
            + f"\n{advice}"
        )
