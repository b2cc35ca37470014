"""Pixels of scenes of any size: photographs are decoded at once, rasters read window by window."""

from __future__ import annotations

import logging
import math
import os
import warnings
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from d2tiny.data.loading.bands import GDAL_OPTIONS, exact_type, floating, to_rgb
from d2tiny.data.loading.headers import read_header
from d2tiny.data.loading.images import read_image
from d2tiny.data.loading.limits import DECODED_PIXELS, require_regular_file
from d2tiny.data.loading.stretch import Stretch, make_stretch, scale_to_bytes
from d2tiny.inference.pixels import ArrayPixels, ReadSettings, ScenePixels, is_url, iso_time, time_of
from d2tiny.inference.scene import GeoReference
from d2tiny.utils.env import require_extra
from d2tiny.utils.errors import ConfigError, DatasetError

__all__ = ["RasterPixels", "open_pixels"]

logger = logging.getLogger(__name__)

DEFAULT_STRETCH = "2%,98%"
_CACHE = (32 << 20, 128 << 20)  # least and most bytes of GDAL's cache of blocks
_SAMPLES = 8  # windows in x and y from which percentiles are taken
_SAMPLE_SIDE = 128  # px


class RasterPixels:
    """A raster that GDAL reads window by window. One thread at a time."""

    def __init__(
        self, path: str, settings: ReadSettings, tile: int = 800, known: Mapping[str, Any] | None = None
    ) -> None:
        """Open a raster.

        Args:
            path: file or URL.
            settings: bands, values, resampling.
            tile: height of the windows in px that are read from left to right, for the size of GDAL's cache.
            known: ``chosen`` of the same raster, opened before; bands and values are taken from it.

        Raises:
            DatasetError: it cannot be read, or not unambiguously; says what to do.
            ConfigError: bands that it does not have, or ``gsd`` without coordinates.
            ImportError: rasterio is not installed.
        """
        self._rasterio = require_extra("rasterio", "geo")
        self.path = path
        try:
            with self._environment(_CACHE[0]), warnings.catch_warnings():
                warnings.simplefilter("ignore", self._rasterio.errors.NotGeoreferencedWarning)
                self._file: Any = self._rasterio.open(path)
        except Exception as err:  # errors of GDAL have no public base class
            raise DatasetError(f"{path}: cannot read this raster ({err}).") from err
        self._whole: Any = self._file
        self._alpha = 0  # band of a mask that resampling made
        self.file_size = (self._file.width, self._file.height)
        self.geo = self._georeference()
        self.scale = (1.0, 1.0)
        if settings.gsd is not None or settings.resize is not None:
            self._resample(settings)
        self.width, self.height = self._file.width, self._file.height
        self._bands = self._chosen_bands(settings.bands if known is None else tuple(known["bands"]))
        self.time = time_of(path) or self._time_of_tags()
        self._inverted = self._whole.tags(ns="IMAGE_STRUCTURE").get("MINISWHITE") == "YES"
        self._masked = any("all_valid" not in {f.name for f in self._file.mask_flag_enums[b - 1]} for b in self._bands)
        rows = tile * max(1.0, self.scale[1])  # of the file
        row = rows * self._whole.width * len(self._bands) * np.dtype(self._file.dtypes[self._bands[0] - 1]).itemsize
        self._cache = min(max(int(1.3 * row), _CACHE[0]), _CACHE[1])
        self._depth = np.dtype(self._file.dtypes[self._bands[0] - 1])
        self.chosen: dict[str, Any] = {"bands": list(self._bands)}
        self._limits = np.zeros((0, 2))
        if known is not None:
            self.chosen, self._limits = dict(known), np.array(known.get("stretch", np.zeros((0, 2))))
            return
        if self._depth != np.uint8:
            self._prepare_stretch(make_stretch(settings.stretch or DEFAULT_STRETCH))
        elif settings.stretch is not None:
            logger.warning("%s: 8-bit values are taken as they are; --stretch is for others.", path)
        for key, value in (("gsd", settings.gsd), ("resize", settings.resize)):
            if value is not None:
                self.chosen[key] = value
        if self.scale != (1.0, 1.0):
            self.chosen["resampled_to"] = [self.width, self.height]

    def close(self) -> None:
        """Close the file."""
        self._file.close()
        self._whole.close()

    def read(self, x0: int, y0: int, x1: int, y1: int) -> np.ndarray:
        """Return a window (h, w, 3), uint8 RGB.

        Raises:
            DatasetError: the file is damaged here.
        """
        pixels = self._scaled(self._values(x0, y0, x1, y1))
        return 255 - pixels if self._inverted else pixels

    def _scaled(self, bands: np.ndarray) -> np.ndarray:
        """Return stored values (C, h, w) as (h, w, 3) uint8."""
        if self._depth == np.uint8:
            return to_rgb(bands, self._file, self._bands[0])
        values = floating(bands, [self._file.nodatavals[index - 1] for index in self._bands])
        pixels = scale_to_bytes(values, self._limits)
        return np.ascontiguousarray(pixels if pixels.shape[2] == 3 else pixels.repeat(3, axis=2))

    def valid(self, x0: int, y0: int, x1: int, y1: int) -> np.ndarray | None:
        """Return which pixels of a window (h, w) have data; None if all have."""
        invalid = np.zeros((y1 - y0, x1 - x0), np.bool_)
        if self._alpha:
            alpha = self._call(lambda w: self._file.read(self._alpha, window=w), x0, y0, x1, y1)
            invalid = alpha < 128
        elif self._masked:
            masks = self._call(lambda w: self._file.read_masks(list(self._bands), window=w), x0, y0, x1, y1)
            invalid = (masks == 0).all(axis=0)
        if self._depth.kind == "f":
            invalid |= ~np.isfinite(self._values(x0, y0, x1, y1)).any(axis=0)
        return ~invalid if invalid.any() else None

    def rows(self, first: int, last: int) -> np.ndarray:
        """Return rows ``first`` to ``last`` (excluded)."""
        return self.read(0, first, self.width, last)

    def _environment(self, cache: int) -> Any:
        # Unlike those of training data, files beside a raster count: they hold its coordinates and overviews.
        beside = ("GDAL_DISABLE_READDIR_ON_OPEN", "GDAL_PAM_ENABLED")
        options = {key: value for key, value in GDAL_OPTIONS.items() if key not in beside or is_url(self.path)}
        options |= {"GDAL_CACHEMAX": cache, "GDAL_HTTP_MAX_RETRY": 3, "GDAL_HTTP_RETRY_DELAY": 1}
        return self._rasterio.Env(**options)

    def _call(self, read: Any, x0: int, y0: int, x1: int, y1: int) -> np.ndarray:
        from rasterio.windows import Window

        try:
            with self._environment(self._cache):
                return read(Window(x0, y0, x1 - x0, y1 - y0))
        except Exception as err:
            raise DatasetError(f"{self.path}: cannot read the pixels {x0}-{x1}, {y0}-{y1} ({err}).") from err

    def _values(self, x0: int, y0: int, x1: int, y1: int) -> np.ndarray:
        """Return a window (C, h, w) as it is stored."""
        return self._call(lambda w: self._file.read(list(self._bands), window=w), x0, y0, x1, y1)

    def _georeference(self) -> GeoReference | None:
        """Return where the pixels lie.

        Raises:
            DatasetError: only control points or a sensor model say so.
        """
        file = self._file
        if file.crs is not None and file.transform != self._rasterio.Affine.identity():
            epsg = file.crs.to_epsg()
            crs = f"EPSG:{epsg}" if epsg else file.crs.to_wkt()
            a, b, c, d, e, f = tuple(file.transform)[:6]
            return GeoReference(crs, (a, b, c, d, e, f))
        name = Path(self.path).name
        if file.gcps[0]:
            raise DatasetError(
                f"{self.path}: only ground control points say where its pixels lie. Rectify it first: "
                f"`gdalwarp -r cubic {name} rectified.tif`"
            )
        if file.rpcs is not None:
            raise DatasetError(
                f"{self.path}: only a sensor model (RPC) says where its pixels lie. Rectify it first, best with a "
                f"terrain model: `gdalwarp -rpc -to RPC_DEM=terrain.tif -r cubic {name} rectified.tif`"
            )
        return None

    def _resampled_size(self, settings: ReadSettings) -> tuple[int, int]:
        """Return width and height in px after resampling."""
        from d2tiny.inference.geo import ground_resolution

        file, factors = self._file, (settings.resize or 1.0,) * 2
        if settings.gsd is not None:
            if self.geo is None:
                raise ConfigError(f"{self.path}: without coordinates, --gsd has no meaning; --resize takes a factor.")
            x, y = ground_resolution(self.geo, file.width, file.height)
            factors = x / settings.gsd, y / settings.gsd
        return max(1, round(file.width * factors[0])), max(1, round(file.height * factors[1]))

    def _resample(self, settings: ReadSettings) -> None:
        from rasterio.enums import Resampling
        from rasterio.vrt import WarpedVRT

        file, (width, height) = self._file, self._resampled_size(settings)
        self.scale = file.width / width, file.height / height
        method = Resampling.average if min(self.scale) > 1 else Resampling.cubic
        if "palette" in {c.name for c in file.colorinterp}:  # numbers of colours have no mean
            method = Resampling.mode if min(self.scale) > 1 else Resampling.nearest
        flags = {flag.name for band in file.mask_flag_enums for flag in band}
        masked = "per_dataset" in flags and "alpha" not in flags
        # A file without coordinates is resampled on a plane of its own.
        geo = self.geo or GeoReference("EPSG:3857", (1.0, 0.0, 0.0, 0.0, -1.0, 0.0))
        transform = self._rasterio.Affine(*geo.resampled(*self.scale).transform)
        source = {} if self.geo else {"src_crs": geo.crs, "src_transform": self._rasterio.Affine(*geo.transform)}
        try:
            self._file = WarpedVRT(
                file,
                crs=file.crs if self.geo else geo.crs,
                transform=transform,
                **source,
                width=width,
                height=height,
                resampling=method,
                tolerance=0.01,
                add_alpha=masked,
            )
            self._alpha = self._file.count if masked else 0
        except Exception as err:
            raise DatasetError(f"{self.path}: cannot resample this raster ({err}).") from err

    def _time_of_tags(self) -> str:
        """Return when the image was taken as GDAL knows it: of satellites' own metadata, of Sentinel-2's products."""
        tags = self._whole.tags(ns="IMAGERY") | self._whole.tags()
        times = (iso_time(tags.get(name, "")) for name in ("ACQUISITIONDATETIME", "PRODUCT_START_TIME"))
        return next(filter(None, times), "")

    def _chosen_bands(self, asked: tuple[int, ...] | None) -> tuple[int, ...]:
        """Return the bands that become red, green and blue, or grey.

        Raises:
            ConfigError: bands that the raster does not have.
            DatasetError: it does not say which of its bands these are.
        """
        file = self._file
        if asked is not None:
            if max(asked) > file.count:
                raise ConfigError(f"{self.path}: --bands {','.join(map(str, asked))}: it has {file.count} bands.")
            return asked
        names = [c.name for c in file.colorinterp[: self._whole.count]]
        if {"red", "green", "blue"} <= set(names):
            return tuple(names.index(colour) + 1 for colour in ("red", "green", "blue"))
        colours = [i for i, name in enumerate(names, start=1) if name != "alpha"]
        if len(colours) == 1:
            return (colours[0],)
        if len(colours) == 3:
            return tuple(colours)
        raise DatasetError(
            f"{self.path}: {len(colours)} bands, and the file does not say which are red, green and blue. Choose them, "
            "for example --bands 3,2,1."
        )

    def _prepare_stretch(self, stretch: Stretch | None) -> None:
        """Choose the values that become 0 and 255, once for all windows."""
        assert stretch is not None
        sample = self._sample() if stretch.percent else np.zeros((0, len(self._bands)))
        self._limits = stretch.limits(sample)
        self.chosen["values"] = str(self._depth)
        self.chosen["stretch"] = [[float(low), float(high)] for low, high in self._limits]
        if stretch.percent:
            self.chosen["percentiles"] = [stretch.low, stretch.high]

    def _sample(self) -> np.ndarray:
        """Return pixels (N, C) of windows all over the raster, or of an overview; NaN where there is no data."""
        overviews = self._file.overviews(self._bands[0])
        side = _SAMPLES * _SAMPLE_SIDE
        step = max(1, math.ceil(max(self.width, self.height) / side))
        if overviews and step >= min(overviews):
            shape = (len(self._bands), max(1, self.height // step), max(1, self.width // step))
            return self._pixels(lambda w: self._file.read(list(self._bands), window=w, out_shape=shape, masked=True))
        windows = {
            (min(x, max(0, self.width - _SAMPLE_SIDE)), min(y, max(0, self.height - _SAMPLE_SIDE)))
            for x in np.linspace(0, max(0, self.width - _SAMPLE_SIDE), _SAMPLES).astype(int).tolist()
            for y in np.linspace(0, max(0, self.height - _SAMPLE_SIDE), _SAMPLES).astype(int).tolist()
        }
        return np.concatenate([self._masked_window(x, y) for x, y in sorted(windows)])

    def _masked_window(self, x: int, y: int) -> np.ndarray:
        x1, y1 = min(x + _SAMPLE_SIDE, self.width), min(y + _SAMPLE_SIDE, self.height)
        return self._pixels(lambda w: self._file.read(list(self._bands), window=w, masked=True), x, y, x1, y1)

    def _pixels(self, read: Any, *window: int) -> np.ndarray:
        found: Any = self._call(read, *(window or (0, 0, self.width, self.height)))
        return found.astype(exact_type(found.dtype)).filled(np.nan).reshape(len(self._bands), -1).T


def open_pixels(
    path: str | os.PathLike[str],
    settings: ReadSettings | None = None,
    tile: int = 800,
    known: Mapping[str, Any] | None = None,
) -> ScenePixels:
    """Open a scene.

    Images without coordinates of up to 40 megapixels are decoded at once, as in training, and turned as their EXIF
    orientation tells; all others are read window by window with rasterio.

    Args:
        path: file, or a URL that GDAL reads.
        settings: bands, values, resampling.
        tile: height of the windows in px that will be read.
        known: ``chosen`` of the same scene, opened before, which was logged then; a raster is not sampled again.

    Raises:
        DatasetError: it cannot be read; says what to do.
        ConfigError: settings that do not fit it.
        ImportError: it needs rasterio, which is not installed.
    """
    settings = settings or ReadSettings()
    path = os.fspath(path)
    if is_url(path):
        return _opened(path, settings, tile, known)
    try:
        require_regular_file(path)
    except (OSError, ValueError) as err:
        raise DatasetError(f"{path}: cannot read this file ({getattr(err, 'strerror', None) or err}).") from err
    if Path(path).suffix.lower() == ".vrt":
        return _opened(path, settings, tile, known)
    try:
        header = read_header(path)
    except (OSError, ValueError) as err:
        raise DatasetError(f"{path}: cannot read this image ({err}).") from err
    small = header.size[0] * header.size[1] * max(1.0, settings.resize or 1.0) ** 2 <= DECODED_PIXELS
    plain = bool(header.mode) and not header.deep and settings.bands is None and settings.gsd is None
    mapped = header.kind in ("TIFF", "JPEG2000") or _coordinates_beside(Path(path))
    if small and plain and (not mapped or not _has_coordinates(path)):
        pixels = ArrayPixels(read_image(path), time_of(path), settings.resize)
        if known is None:
            log_choice(path, pixels.chosen, (pixels.width, pixels.height))
        return pixels
    if header.orientation != 1:
        raise DatasetError(
            f"{path}: its EXIF orientation turns it, and rasters are read as they are stored. Turn its pixels first, "
            f"for example with `exiftran -ai` (JPEG) or `mogrify -auto-orient`."
        )
    return _opened(path, settings, tile, known)


_WORLD_FILES = frozenset({".jgw", ".pgw", ".tfw", ".wld", ".jpgw", ".pngw"})


def _coordinates_beside(path: Path) -> bool:
    """Return whether a file beside an image may hold its coordinates."""
    if path.with_name(f"{path.name}.aux.xml").exists():
        return True
    suffixes = {*_WORLD_FILES, *(s.upper() for s in _WORLD_FILES)}
    return any(path.with_suffix(suffix).exists() for suffix in suffixes)


def _has_coordinates(path: str) -> bool:
    """Return whether GDAL finds coordinates, control points or a sensor model; False where rasterio is missing."""
    try:
        import rasterio
    except ImportError:
        return False
    with warnings.catch_warnings(), suppress(Exception):
        warnings.simplefilter("ignore")
        with rasterio.open(path) as file:
            return bool(file.crs is not None or file.gcps[0] or file.rpcs is not None)
    return False


def _opened(path: str, settings: ReadSettings, tile: int, known: Mapping[str, Any] | None) -> RasterPixels:
    known = known if known and "bands" in known else None  # not of a machine that opened it as a photograph
    pixels = RasterPixels(path, settings, tile, known)
    if known is None:
        log_choice(path, pixels.chosen, (pixels.width, pixels.height))
    return pixels


def log_choice(path: str, chosen: Mapping[str, Any], size: tuple[int, int]) -> None:
    """Log which bands, values and resampling were chosen for a raster; of photographs, their new size.

    Args:
        path: of the raster.
        chosen: of its pixels.
        size: (width, height) in px after resampling.
    """
    if "bands" not in chosen:
        if "resize" in chosen:
            logger.info("%s: resized by %g to %dx%d px.", path, chosen["resize"], *size)
        return
    bands = ", ".join(map(str, chosen["bands"]))
    text = f"band {bands} as grey" if len(chosen["bands"]) == 1 else f"bands {bands} as red, green, blue"
    if "stretch" in chosen:
        limits = "; ".join(f"{low:g} to {high:g}" for low, high in chosen["stretch"])
        text += f"; {chosen['values']} values {limits} as 0 to 255"
    if "gsd" in chosen:
        text += f"; resampled to {size[0]}x{size[1]} px of {chosen['gsd']:g} m"
    if "resize" in chosen:
        text += f"; resized by {chosen['resize']:g} to {size[0]}x{size[1]} px"
    logger.info("%s: %s.", path, text)
