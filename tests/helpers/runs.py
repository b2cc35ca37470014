"""Runs over a few made scenes with a detector of bright squares, which needs no weights."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from detectron2.structures import Boxes, Instances

from d2tiny.inference import OutputSettings, RunSettings, TileSettings
from d2tiny.inference.merge import MergeSettings
from d2tiny.inference.predictor import TiledPredictor
from tests.helpers.made_rasters import deep, geotiff

CLASSES = ("car", "ship")


def squares(height: int, width: int, count: int, seed: int = 0) -> np.ndarray:
    """Draw bright red and white squares of 4 to 20 px on dark noise, (3, H, W) uint8."""
    rng = np.random.default_rng(seed)
    image = rng.integers(0, 60, (3, height, width), dtype=np.uint8)
    for x, y, side, red in zip(
        *rng.integers((0, 0, 4, 0), (width - 20, height - 20, 21, 2), (count, 4)).T, strict=True
    ):
        image[0, y : y + side, x : x + side] = 255
        image[1:, y : y + side, x : x + side] = 0 if red else 255
    return image


def write_scenes(folder: Path) -> Path:
    """Write two maps, of 8 and 16 bits, two photographs, one of which fits into a tile, and a broken one."""
    folder.mkdir(parents=True, exist_ok=True)
    geotiff(folder / "a.tif", squares(300, 420, 90), tiled=True, blockxsize=128, blockysize=128)
    geotiff(folder / "b.tif", deep(squares(200, 330, 40, 1), 300, 9300), photometric="RGB")
    (folder / "broken.png").write_bytes(b"broken")
    for name, size in (("c.png", (90, 120)), ("d.png", (150, 260))):
        cv2.imwrite(str(folder / name), squares(*size, 10, 2)[::-1].transpose(1, 2, 0))
    return folder


class SquarePredictor(TiledPredictor):
    """Finds connected bright pixels; white ones are cars, red ones ships."""

    calls = 0  # of all instances, reset by tests

    def __init__(self, cfg: Any, tile: int, overlap: int | str, *, batch: int, **_: Any) -> None:
        self.settings = TileSettings(tile, overlap, batch)
        self.classes, self.merge_settings = CLASSES, MergeSettings()

    def autocast(self) -> Any:
        """Nothing is computed in another precision."""
        return nullcontext()

    def detect(self, images: Any, *, whole: bool = False) -> list[Instances]:
        """Find squares in images (h, w, 3)."""
        SquarePredictor.calls += len(images)
        return [self._squares(image) for image in images]

    @staticmethod
    def _squares(image: np.ndarray) -> Instances:
        _, _, stats, _ = cv2.connectedComponentsWithStats((image[..., 0] > 200).astype(np.uint8))
        x, y, w, h, _ = stats[1:].T
        instances = Instances(image.shape[:2])
        instances.pred_boxes = Boxes(torch.tensor(np.stack((x, y, x + w, y + h), axis=1), dtype=torch.float32))
        instances.scores = torch.tensor(0.4 + 0.5 * np.minimum(w, h) / 20, dtype=torch.float32).clamp(max=1)
        centre = image[(y + h // 2).clip(max=image.shape[0] - 1), (x + w // 2).clip(max=image.shape[1] - 1)]
        instances.pred_classes = torch.tensor((centre[:, 1] < 100).astype(np.int64))
        return instances


def settings(**more: Any) -> RunSettings:
    """Return settings that cut these scenes, and write maps, pictures and pages of them."""
    standard = {"tiles": TileSettings(128), "outputs": OutputSettings(page=True), "progress": False, "model": "squares"}
    return RunSettings(**{**standard, **more})


def content(folder: Path) -> dict[str, bytes]:
    """Return the bytes of each file of an output, by its relative name."""
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}
