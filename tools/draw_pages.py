#!/usr/bin/env python
"""Draw the pictures of the README and of the guides that show what a run has made.

python tools/draw_pages.py --predict hituav/val/1_60_30_0_00008.jpg  # predict.jpg: an image, what `thermal` finds
python tools/draw_pages.py --demo output/demo        # demo.jpg, report.jpg: of what `make demo` has left
python tools/draw_pages.py --scene s2_genoa.jpg      # scenes_page.jpg, scenes_map.jpg: what `colour` finds in a scene

Pages are photographed by a headless Chromium. ``--output`` is docs/images.
"""

from __future__ import annotations

import argparse
import json
import math
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from d2tiny.cli import main as d2tiny
from d2tiny.cli.common import guarded
from d2tiny.data.loading.images import read_image
from d2tiny.utils.errors import D2TinyError
from d2tiny.utils.files import open_atomic
from d2tiny.visualization import class_color

ROOT = Path(__file__).resolve().parents[1]
SCORE = 0.5
GENOA, METRES = (490_008.0, 4_919_999.0), 10.0  # corner and pixels of the scene in UTM zone 32, of Sentinel-2
HARBOUR = 1000  # column at which the part of the page begins
TURN = 30.0  # degrees by which the scene of the map is rotated
Pixels = np.ndarray


def draw_prediction(image: Path) -> Pixels:
    """Return an image beside what the published thermal detector finds in it, enlarged."""
    import torch
    from detectron2.engine import DefaultPredictor

    from d2tiny import model_zoo

    cfg = model_zoo.get_cfg(weights="d2tiny://thermal", device="cpu")
    pixels = read_image(image)
    torch.set_num_threads(1)
    found = DefaultPredictor(cfg)(np.ascontiguousarray(pixels[:, :, ::-1]))["instances"].to("cpu")
    found = found[found.scores >= SCORE]
    plain = cv2.resize(pixels, None, fx=2, fy=2, interpolation=cv2.INTER_CUBIC)
    drawn = plain.copy()
    for box, kind in zip(found.pred_boxes.tensor.numpy(), found.pred_classes.tolist(), strict=True):
        x1, y1, x2, y2 = np.round(box * 2).astype(int).tolist()
        cv2.rectangle(drawn, (x1 - 2, y1 - 2), (x2 + 2, y2 + 2), class_color(kind), 2)
    return np.concatenate((np.pad(plain, ((0, 0), (0, 8), (0, 0)), constant_values=255), drawn), axis=1)


def photograph(page: Path, width: int, height: int) -> Pixels:
    """Return what Chromium shows of a page in a window of this size.

    Raises:
        D2TinyError: there is no Chromium, or it made no picture.
    """
    names = ("chromium", "chromium-browser", "google-chrome")
    program = next((found for name in names if (found := shutil.which(name))), None)
    if program is None:
        raise D2TinyError(f"No {' or '.join(names)} on this machine: it photographs the pages.")
    with tempfile.TemporaryDirectory() as folder:
        picture = Path(folder) / "page.png"
        options = ["--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--virtual-time-budget=6000"]
        options += [f"--user-data-dir={folder}/profile", f"--window-size={width},{height}", f"--screenshot={picture}"]
        done = subprocess.run([program, *options, page.resolve().as_uri()], capture_output=True, text=True, timeout=120)
        if not picture.is_file():
            raise D2TinyError(f"{program} made no picture of {page}: {done.stderr.strip()[-400:]}")
        return read_image(picture)


def predict_scene(image: Path, folder: Path, turn: float = 0.0, first: int = 0) -> tuple[Path, Path]:
    """Write a scene as a GeoTIFF, turned by some degrees and from a column on, and what ``colour`` finds in it.

    Returns:
        The raster and the map.
    """
    import rasterio
    from rasterio.transform import Affine

    pixels = read_image(image)[:, first:]
    raster = folder / f"{image.stem.rpartition('_')[2]}.tif"
    place = (
        Affine.translation(*GENOA)
        * Affine.rotation(-turn)
        * Affine.scale(METRES, -METRES)
        * Affine.translation(first, 0)
    )
    form: dict[str, Any] = {"driver": "GTiff", "count": 3, "dtype": "uint8", "crs": "EPSG:32632", "transform": place}
    with rasterio.open(raster, "w", width=pixels.shape[1], height=pixels.shape[0], **form) as file:
        file.write(pixels.transpose(2, 0, 1))
    options = ["--weights", "colour", "--output", str(folder), "--score", str(SCORE), "--device", "cpu", "--page"]
    if d2tiny(["predict", str(raster), *options]):
        raise D2TinyError(f"{image} could not be predicted.")
    return raster, raster.with_suffix(".geojson")


def draw_map(raster: Path, objects: Path, side: int = 900) -> Pixels:
    """Return the part of a raster with most objects, north up, with the outlines of its objects."""
    import rasterio
    from rasterio.vrt import WarpedVRT
    from rasterio.warp import transform_geom

    with rasterio.open(raster) as file, WarpedVRT(file, resampling=rasterio.enums.Resampling.bilinear) as north_up:
        pixels, inverse = north_up.read().transpose(1, 2, 0)[:, :, :3], ~north_up.transform
        shapes = [f["geometry"] for f in json.loads(objects.read_text(encoding="utf-8"))["features"]]
        shapes = [transform_geom("EPSG:4326", north_up.crs, shape)["coordinates"][0] for shape in shapes]
    outlines = [np.array([inverse * point[:2] for point in shape]) for shape in shapes]
    width, height = 300, 233
    x, y = _densest(np.array([outline.mean(axis=0) for outline in outlines]), width, height)
    scale = side / width
    part = np.ascontiguousarray(pixels[max(y, 0) : y + height, max(x, 0) : x + width])
    drawn = cv2.resize(part, None, fx=scale, fy=scale, interpolation=cv2.INTER_CUBIC)
    for outline in outlines:
        points = np.round((outline - (max(x, 0), max(y, 0))) * scale).astype(np.int32)
        cv2.polylines(drawn, [points], True, (255, 200, 0), 2, cv2.LINE_AA)
    return drawn


def _densest(centres: Pixels, width: int, height: int) -> tuple[int, int]:
    """Return the corner of the window around a centre that holds most centres."""
    inside = np.abs(centres[:, None] - centres[None]) <= (width / 2, height / 2)
    best = centres[inside.all(axis=2).sum(axis=1).argmax()]
    return math.floor(best[0] - width / 2), math.floor(best[1] - height / 2)


def draw(args: argparse.Namespace) -> int:
    """Draw what is asked for."""
    pictures: dict[str, Pixels] = {}
    if args.predict:
        pictures["predict"] = draw_prediction(args.predict)
    if args.demo:
        crowded = max((args.demo / "pictures").glob("*.png"), key=lambda path: path.stat().st_size)
        pictures["demo"] = read_image(crowded)
        pictures["report"] = photograph(args.demo / "report" / "index.html", 992, 1016)
    if args.scene:
        with tempfile.TemporaryDirectory() as folder:
            raster, _ = predict_scene(args.scene, Path(folder), first=HARBOUR)
            pictures["scenes_page"] = photograph(raster.with_suffix(".html"), 1280, 720)
        with tempfile.TemporaryDirectory() as folder:
            pictures["scenes_map"] = draw_map(*predict_scene(args.scene, Path(folder), TURN))
    for name, picture in pictures.items():
        with open_atomic(args.output / f"{name}.jpg") as file:
            file.write(cv2.imencode(".jpg", picture[:, :, ::-1], [cv2.IMWRITE_JPEG_QUALITY, 88])[1].tobytes())
        print(args.output / f"{name}.jpg")
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    """Draw the pictures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--predict", type=Path, metavar="IMAGE", help="a thermal image, 8-bit")
    parser.add_argument("--demo", type=Path, metavar="DIR", help="output of `d2tiny demo`")
    parser.add_argument("--scene", type=Path, metavar="IMAGE", help="the scene of Genoa, 10 m a pixel")
    parser.add_argument("--output", type=Path, default=ROOT / "docs" / "images", metavar="DIR")
    args = parser.parse_args(argv)
    return guarded(lambda: draw(args))


if __name__ == "__main__":
    sys.exit(main())
