"""Rasters made from a picture: every kind of file that a map or a camera gives, with the picture's pixels in it.

``KINDS`` names them; :func:`make` writes one, :func:`repeat` a large one block by block. From a command line:
``python -m tests.helpers.made_rasters IMAGE FOLDER [--kinds utm rotated] [--repeat 20000]``.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import rasterio
import rasterio.shutil
from PIL import Image
from rasterio.control import GroundControlPoint
from rasterio.rpc import RPC
from rasterio.transform import Affine

Values = np.ndarray  # (bands, H, W); a picture is RGB uint8
PIXEL = 0.5  # metres
UTM, UTM_CORNER = "EPSG:32631", (448_000.0, 5_411_500.0)  # near Paris
DEGREES_CORNER = (2.29, 48.86)
DEGREE = 1 / 111_320  # of latitude, a metre
FRAME = 16  # px without data at each border
TURN = 30.0  # degrees


def north_up(x: float = PIXEL, y: float = PIXEL, corner: tuple[float, float] = UTM_CORNER) -> Affine:
    """Return the transform of pixels of x by y units whose upper left corner lies at ``corner``."""
    return Affine(x, 0, corner[0], 0, -y, corner[1])


def read(image: Path | Values) -> Values:
    """Return a picture as (3, H, W) uint8; arrays as they are, a 2-d one as three equal bands."""
    if isinstance(image, np.ndarray):
        return np.repeat(image[None], 3, axis=0) if image.ndim == 2 else image
    with Image.open(image) as file:
        return np.asarray(file.convert("RGB")).transpose(2, 0, 1).copy()


def geotiff(path: Path, values: Values, crs: str | None = UTM, transform: Affine | None = None, **options) -> Path:
    """Write a GeoTIFF; ``options`` are rasterio's (tiled, nodata, photometric, ...)."""
    bands, height, width = values.shape
    form = {"driver": "GTiff", "width": width, "height": height, "count": bands, "dtype": values.dtype}
    if crs is not None:
        form |= {"crs": crs, "transform": transform or north_up()}
    with rasterio.open(path, "w", **{**form, **options}) as file:
        file.write(values)
    return path


def deep(values: Values, low: float, high: float, dtype: str = "uint16") -> Values:
    """Spread 0 to 255 over ``low`` to ``high``."""
    return (low + values.astype(np.float64) * ((high - low) / 255)).astype(dtype)


def bands_of_8(values: Values) -> Values:
    """Return eight bands: coastal, B, G, yellow, R, red edge and two infrared ones (``--bands 5,3,2`` is RGB)."""
    red, green, blue = values.astype(np.uint16)
    mixed = [blue // 2, blue, green, (red + green) // 2, red, (red + 255) // 2, 255 - red, 255 - green]
    return np.stack(mixed).astype(np.uint8)


def _geographic(path: Path, values: Values) -> Path:
    """A pixel of 0.5 m in both directions: more degrees of longitude than of latitude."""
    y = PIXEL * DEGREE
    x = y / math.cos(math.radians(DEGREES_CORNER[1]))
    return geotiff(path, values, "EPSG:4326", north_up(x, y, DEGREES_CORNER))


def _rotated(path: Path, values: Values) -> Path:
    cos, sin = PIXEL * math.cos(math.radians(TURN)), PIXEL * math.sin(math.radians(TURN))
    return geotiff(path, values, UTM, Affine(cos, -sin, UTM_CORNER[0], -sin, -cos, UTM_CORNER[1]))


def _nodata(path: Path, values: Values) -> Path:
    framed = np.zeros_like(values)
    inner = (slice(None), slice(FRAME, -FRAME), slice(FRAME, -FRAME))
    framed[inner] = np.maximum(values[inner], 1)
    return geotiff(path, framed, nodata=0)


def _nan(path: Path, values: Values) -> Path:
    framed = np.full(values.shape, np.nan, dtype=np.float32)
    inner = (slice(None), slice(FRAME, -FRAME), slice(FRAME, -FRAME))
    framed[inner] = values[inner] / 255
    return geotiff(path, framed, nodata=math.nan)


def half(height: int, width: int) -> np.ndarray:
    """(H, W) bool: the lower left triangle, which holds data where a raster is half empty."""
    return np.arange(height)[:, None] * width >= np.arange(width)[None] * height


def _alpha(path: Path, values: Values) -> Path:
    alpha = half(*values.shape[1:]).astype(np.uint8)[None] * 255
    return geotiff(path, np.concatenate((values, alpha)), photometric="RGB", alpha="YES")


def _mask(path: Path, values: Values) -> Path:
    bands, height, width = values.shape
    form = {"count": bands, "width": width, "height": height, "dtype": values.dtype, "photometric": "RGB"}
    with (
        rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True),
        rasterio.open(path, "w", driver="GTiff", crs=UTM, transform=north_up(), **form) as file,
    ):
        file.write(values)
        file.write_mask(half(height, width).astype(np.uint8) * 255)
    return path


def _palette(path: Path, values: Values) -> Path:
    picture = Image.fromarray(values.transpose(1, 2, 0)).quantize(256, dither=Image.Dither.NONE)
    colours = np.asarray(picture.getpalette()).reshape(-1, 3).tolist()
    indices = np.asarray(picture)
    form = {"width": indices.shape[1], "height": indices.shape[0], "count": 1, "dtype": "uint8"}
    options = {"crs": UTM, "transform": north_up(), "photometric": "palette"}
    with rasterio.open(path, "w", driver="GTiff", **form, **options) as file:
        file.write(indices, 1)
        file.write_colormap(1, {i: (*colour, 255) for i, colour in enumerate(colours)})
    return path


def _gcps(path: Path, values: Values) -> Path:
    """Four corners with their places, no transform."""
    _, height, width = values.shape
    bands = {"count": len(values), "width": width, "height": height, "dtype": values.dtype}
    points = [
        GroundControlPoint(row, column, UTM_CORNER[0] + column * PIXEL, UTM_CORNER[1] - row * PIXEL)
        for row in (0, height)
        for column in (0, width)
    ]
    with rasterio.open(path, "w", driver="GTiff", **bands) as file:
        file.write(values)
        file.gcps = (points, rasterio.CRS.from_string(UTM))
    return path


def _rpc(path: Path, values: Values) -> Path:
    """A camera's model that is nothing but a scale, as satellites' level 1 products have it; no transform."""
    _, height, width = values.shape
    one = [1.0] + [0.0] * 19
    along_longitude, along_latitude = [0.0] * 20, [0.0] * 20
    along_longitude[1], along_latitude[2] = 1.0, -1.0
    half_y = height / 2 * PIXEL * DEGREE
    half_x = width / 2 * PIXEL * DEGREE / math.cos(math.radians(DEGREES_CORNER[1]))
    with rasterio.open(
        path, "w", driver="GTiff", count=len(values), width=width, height=height, dtype=values.dtype
    ) as file:
        file.write(values)
        file.rpcs = RPC(
            height_off=0,
            height_scale=500,
            lat_off=DEGREES_CORNER[1],
            lat_scale=half_y,
            line_den_coeff=one,
            line_num_coeff=along_latitude,
            line_off=height / 2,
            line_scale=height / 2,
            long_off=DEGREES_CORNER[0],
            long_scale=half_x,
            samp_den_coeff=one,
            samp_num_coeff=along_longitude,
            samp_off=width / 2,
            samp_scale=width / 2,
        )
    return path


def _copied(path: Path, values: Values, driver: str, **options) -> Path:
    """Write a GeoTIFF beside the file, and the file from it with a driver that only copies."""
    source = geotiff(path.with_name(f"{path.stem}_source.tif"), values, tiled=True, blockxsize=256, blockysize=256)
    rasterio.shutil.copy(source, path, driver=driver, **options)
    if driver != "VRT":
        source.unlink()
    return path


def _turned(path: Path, values: Values) -> Path:
    """A photograph whose EXIF says that it is to be turned by 90 degrees: shown, it is the picture."""
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was held so that the picture's top is at the right
    stored = Image.fromarray(values.transpose(1, 2, 0)).transpose(Image.Transpose.ROTATE_90)
    stored.save(path, quality=95, subsampling=0, exif=exif)
    return path


def _plain(path: Path, values: Values) -> Path:
    Image.fromarray(values.transpose(1, 2, 0)).save(path, quality=95, subsampling=0)
    return path


# name -> (suffix, writer)
KINDS: dict[str, tuple[str, Callable[[Path, Values], Path]]] = {
    "utm": (".tif", geotiff),
    "geographic": (".tif", _geographic),
    "web_mercator": (".tif", lambda p, v: geotiff(p, v, "EPSG:3857", north_up(0.76, 0.76, (254_900, 6_250_500)))),
    "rotated": (".tif", _rotated),
    "non_square": (".tif", lambda p, v: geotiff(p, v, transform=north_up(0.5, 0.8))),
    "south_up": (".tif", lambda p, v: geotiff(p, v, transform=north_up(0.5, -0.5))),
    "uint16": (".tif", lambda p, v: geotiff(p, deep(v, 300, 9300), photometric="RGB")),
    "twelve_bits": (".tif", lambda p, v: geotiff(p, deep(v, 100, 3900), photometric="RGB", nbits=12)),
    "eleven_bits": (".tif", lambda p, v: geotiff(p, deep(v, 50, 1950), photometric="RGB")),
    "float": (".tif", lambda p, v: geotiff(p, deep(v, -0.05, 0.6, "float32"), photometric="RGB")),
    "nodata": (".tif", _nodata),
    "nan": (".tif", _nan),
    "alpha": (".tif", _alpha),
    "mask": (".tif", _mask),
    "palette": (".tif", _palette),
    "one_band": (".tif", lambda p, v: geotiff(p, v.mean(axis=0, keepdims=True).astype(np.uint8))),
    "eight_bands": (".tif", lambda p, v: geotiff(p, bands_of_8(v))),
    "gcps": (".tif", _gcps),
    "rpc": (".tif", _rpc),
    "no_crs": (".tif", lambda p, v: geotiff(p, v, crs=None)),
    "tiled": (".tif", lambda p, v: geotiff(p, v, tiled=True, blockxsize=256, blockysize=256, compress="deflate")),
    "striped": (".tif", lambda p, v: geotiff(p, v, blockysize=8, compress="lzw")),
    "planes": (".tif", lambda p, v: geotiff(p, v, interleave="band", photometric="RGB")),
    "cog": (".tif", lambda p, v: _copied(p, v, "COG", compress="deflate", blocksize=256)),
    "jp2": (".jp2", lambda p, v: _copied(p, v, "JP2OpenJPEG", quality=100, reversible="YES")),
    "vrt": (".vrt", lambda p, v: _copied(p, v, "VRT")),
    "png": (".png", _plain),
    "jpeg": (".jpg", _plain),
    "turned_jpeg": (".jpg", _turned),
}


def make(kind: str, image: Path | Values, folder: Path) -> Path:
    """Write the raster of a kind into a folder and return its file, ``KIND.tif``."""
    suffix, writer = KINDS[kind]
    folder.mkdir(parents=True, exist_ok=True)
    return writer(folder / f"{kind}{suffix}", read(image))


def repeat(image: Path | Values, side: int, path: Path, *, block: int = 512, crs: str | None = UTM, **options) -> Path:
    """Write a tiled GeoTIFF of side² pixels that repeats the picture; only one row of blocks is in memory.

    Args:
        image: RGB picture, or (bands, H, W).
        side: in px, such as 20,000.
        path: of the GeoTIFF.
        block: side of its tiles in px, a multiple of 16; ``tiled=False`` writes strips instead.
        crs: None for a raster without coordinates.
        **options: of rasterio.
    """
    values = read(image)
    bands, height, width = values.shape
    columns = np.arange(side) % width
    form = {"driver": "GTiff", "width": side, "height": side, "count": bands, "dtype": values.dtype}
    form |= {"tiled": True, "blockxsize": block, "blockysize": block, "bigtiff": "IF_SAFER"}
    if crs is not None:
        form |= {"crs": crs, "transform": north_up()}
    if options.get("tiled") is False:
        form.pop("blockxsize")
        options.setdefault("blockysize", 16)
    with rasterio.Env(GDAL_CACHEMAX=64), rasterio.open(path, "w", **{**form, **options}) as file:
        for top in range(0, side, block):
            rows = np.arange(top, min(top + block, side)) % height
            part = values[:, rows][:, :, columns]
            file.write(part, window=rasterio.windows.Window(0, top, side, len(rows)))
    return path


def main() -> None:
    """Write rasters from the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("image", type=Path)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--kinds", nargs="*", choices=list(KINDS), default=list(KINDS))
    parser.add_argument("--repeat", type=int, metavar="SIDE", help="also SIDE² px, by repetition")
    args = parser.parse_args()
    for kind in args.kinds:
        print(make(kind, args.image, args.folder))
    if args.repeat:
        print(repeat(args.image, args.repeat, args.folder / f"repeated_{args.repeat}.tif"))


if __name__ == "__main__":
    main()
