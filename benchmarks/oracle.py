"""A detector that knows the objects of a scene: it cuts them at the edges of its tiles, jitters, misses, doubles."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from d2tiny.inference.tiles import TileGrid
from d2tiny.ops.grid_nms import grid_nms

__all__ = ["Oracle", "Truth", "iou_matrix", "random_case", "random_scene"]

CLASSES = 3


@dataclass(frozen=True, eq=False)
class Truth:
    """A scene: its size in px, boxes (N, 4) XYXY, classes (N,)."""

    width: int
    height: int
    boxes: np.ndarray
    classes: np.ndarray


def random_scene(rng: np.random.Generator, width: int, height: int, count: int, crowded: bool) -> Truth:
    """Draw objects of 2-120 px that do not overlap; crowded ones stand in blocks of rows, up to 2 px apart."""
    boxes: list[np.ndarray] = []
    taken = np.zeros((height, width), np.bool_)
    total = 0
    for _ in range(20 * count):
        if total >= count:
            break
        w, h = np.exp(rng.uniform(np.log(2), np.log(120), 2) * 0.5 + rng.uniform(np.log(2), np.log(120)) * 0.5)
        across, down = rng.integers(1, 9, 2) if crowded else (1, 1)
        gap = rng.uniform(0, 2)
        x, y = rng.uniform(0, width), rng.uniform(0, height)
        x1, y1 = x + across * (w + gap), y + down * (h + gap)
        area = taken[int(y) : int(y1) + 2, int(x) : int(x1) + 2]
        if x1 > width or y1 > height or area.any():
            continue
        area[:] = True
        ix, iy = (v.ravel() for v in np.meshgrid(np.arange(across), np.arange(down)))
        left, top = x + ix * (w + gap), y + iy * (h + gap)
        boxes.append(np.stack((left, top, left + w, top + h), axis=1))
        total += len(ix)
    found = np.concatenate(boxes) if boxes else np.zeros((0, 4))
    # Neighbours of one block are of one class.
    classes = np.repeat(rng.integers(0, CLASSES, len(boxes)), [len(b) for b in boxes])
    return Truth(width, height, found, classes)


def random_case(seed: int) -> tuple[Truth, TileGrid, Oracle]:
    """Draw a scene, tiles of 256-1024 px with an overlap of 5-25 %, and a detector."""
    rng = np.random.default_rng(seed)
    width, height = (int(v) for v in rng.integers(700, 2600, 2))
    crowded = bool(seed % 2)
    truth = random_scene(rng, width, height, int(rng.integers(50, 1200 if crowded else 300)), crowded)
    tile = int(rng.choice([256, 320, 512, 640, 800, 1024]))
    grid = TileGrid(width, height, tile, int(tile * rng.uniform(0.05, 0.25)))
    return truth, grid, Oracle(truth, seed)


@dataclass(frozen=True, eq=False)
class Oracle:
    """The detector.

    Attributes:
        truth: what there is.
        seed: of its errors; those of a tile depend on the tile alone.
        jitter: standard deviation of a side in shares of the object, at least 0.3 px.
        miss: share of objects that a tile misses.
        double: share of objects that are found twice.
        visible: least share of an object that must lie in a tile for it to be found there.
    """

    truth: Truth
    seed: int
    jitter: float = 0.04
    miss: float = 0.05
    double: float = 0.03
    visible: float = 0.15

    def tile(
        self, window: tuple[int, int, int, int], number: int
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Return what is found in a tile, after NMS.

        Returns:
            boxes (N, 4) in px of the tile, scores (N,), classes (N,), and which object of the truth each is.
        """
        rng = np.random.default_rng((self.seed, number))
        x0, y0, x1, y1 = window
        all_boxes = self.truth.boxes
        clipped = all_boxes.clip((x0, y0, x0, y0), (x1, y1, x1, y1))
        full = (all_boxes[:, 2:] - all_boxes[:, :2]).prod(axis=1)
        sides = clipped[:, 2:] - clipped[:, :2]
        share = np.where((sides > 1).all(axis=1), sides.prod(axis=1) / full, 0)
        seen = np.flatnonzero((share >= self.visible) & (rng.random(len(full)) >= self.miss))
        again = seen[rng.random(len(seen)) < self.double]
        index = np.concatenate((seen, again))
        boxes = clipped[index]
        size = np.tile(boxes[:, 2:] - boxes[:, :2], 2)
        boxes = boxes + rng.normal(size=boxes.shape) * np.maximum(0.3, self.jitter * size)
        boxes = boxes.clip((x0, y0, x0, y0), (x1, y1, x1, y1)) - np.array((x0, y0, x0, y0))
        scores = (0.4 + 0.6 * rng.random(len(index))) * np.sqrt(share[index])
        scores[len(seen) :] *= 0.7
        classes = self.truth.classes[index]
        kept = grid_nms(boxes.astype(np.float32), scores.astype(np.float32), classes, 0.5)
        return boxes[kept], scores[kept].astype(np.float32), classes[kept], index[kept]


def iou_matrix(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Return the IoU (N, M) of boxes."""
    low, high = np.maximum(a[:, None, :2], b[None, :, :2]), np.minimum(a[:, None, 2:], b[None, :, 2:])
    inter = (high - low).clip(0).prod(axis=2)
    area_a, area_b = (a[:, 2:] - a[:, :2]).prod(axis=1), (b[:, 2:] - b[:, :2]).prod(axis=1)
    return inter / np.maximum(area_a[:, None] + area_b[None] - inter, 1e-12)
