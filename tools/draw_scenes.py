#!/usr/bin/env python
"""Draw how detections of two overlapping tiles become objects of the scene: docs/images/scenes_merging.jpg.

What the tiles see is made up; what becomes of it is computed by ``SeamMerger``.

python tools/draw_scenes.py --output docs/images
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np

from d2tiny.cli.common import guarded
from d2tiny.inference.merge import SeamMerger, Views
from d2tiny.inference.tiles import TileGrid
from d2tiny.utils.files import open_atomic

GRID = TileGrid(224, 128, 128, 32)  # columns 0-128 and 96-224
AREA, SCALE = (54, 32, 170, 74), 4  # what a panel shows, in px of the scene; enlargement
LEFT, RIGHT, MERGED = (60, 200, 255), (255, 170, 40), (120, 255, 130)  # RGB
Box = tuple[float, float, float, float]
Pixels = np.ndarray


class Case(NamedTuple):
    """One row of the picture: title, objects, and what the left and the right tile find of them."""

    title: str
    objects: list[Box]
    left: list[Box]
    right: list[Box]


CASES = [
    Case(
        "whole in both tiles: one object, their mean; the view farther from its edges counts more",
        [(103, 46, 119, 56)],
        [(102, 45, 119, 57)],
        [(104, 47, 120, 56)],
    ),
    Case(
        "cut by the edge of one tile: that view is not trusted",
        [(110, 44, 142, 60)],
        [(110, 44, 128, 60)],
        [(110, 44, 142, 60)],
    ),
    Case(
        "larger than the overlap, cut in both: joined, each side from the tile that sees it",
        [(66, 40, 160, 66)],
        [(66, 40, 128, 66)],
        [(96, 40, 160, 66)],
    ),
    Case(
        "two that touch: each tile sees two, so they stay two",
        [(98, 42, 126, 53), (98, 53, 126, 64)],
        [(98, 42, 126, 53), (98, 53, 126, 64)],
        [(98, 42, 126, 53), (98, 53, 126, 64)],
    ),
    Case(
        "a piece that the edge leaves, inside of what the other tile sees whole: dropped",
        [(84, 45, 119, 60)],
        [(84, 45, 119, 60)],
        [(96, 46, 101, 60)],
    ),
]


def main() -> int:
    """Write the picture."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("docs/images"), help="folder (default: %(default)s)")
    args = parser.parse_args()
    return guarded(lambda: _write(args.output), output=args.output)


def _write(output: Path) -> int:
    output.mkdir(parents=True, exist_ok=True)
    target = output / "scenes_merging.jpg"
    options = [cv2.IMWRITE_JPEG_QUALITY, 88]
    with open_atomic(target) as file:
        file.write(cv2.imencode(".jpg", draw_cases()[:, :, ::-1], options)[1].tobytes())
    print(target)
    return 0


def draw_cases() -> Pixels:
    """Return all cases below each other, RGB."""
    rows = [_heading()]
    for case in CASES:
        panels = np.concatenate([_panel(case, merged=False), _gap(4), _panel(case, merged=True)], axis=1)
        rows += [_text(case.title, panels.shape[1]), panels]
    return np.pad(np.concatenate(rows), ((0, 8), (8, 8), (0, 0)), constant_values=24)


def merge(case: Case) -> list[Box]:
    """Return the objects that become of a case."""
    merger, parts = SeamMerger(GRID), [Views.empty()]
    for tile, boxes in enumerate((case.left, case.right)):
        x0, y0, _, _ = GRID.window(tile)
        views = np.array(boxes, np.float64) - np.array((x0, y0, x0, y0))
        parts += merger.add(tile, views, np.full(len(boxes), 0.8), np.zeros(len(boxes), np.int64))
    return [(x0, y0, x1, y1) for x0, y0, x1, y1 in Views.joined(parts).boxes.tolist()]


def _panel(case: Case, *, merged: bool) -> Pixels:
    """Draw the objects with what the tiles see of them, or with what is written."""
    image = _ground()
    for box in case.objects:
        corner, opposite = _points(box)
        cv2.rectangle(image, corner, opposite, (214, 214, 208), -1)
        cv2.rectangle(image, corner, opposite, (150, 150, 146), 2)
    if merged:
        for box in merge(case):
            cv2.rectangle(image, *_points(box), MERGED, 3, cv2.LINE_AA)
        return image
    _edges(image)
    for boxes, colour, shift in ((case.left, LEFT, -2), (case.right, RIGHT, 2)):
        for box in boxes:
            # Drawn a little apart, where both see the same.
            (x0, y0), (x1, y1) = _points(box)
            cv2.rectangle(image, (x0 + shift, y0 + shift), (x1 + shift, y1 + shift), colour, 2, cv2.LINE_AA)
    return image


def _ground() -> Pixels:
    """Return something like asphalt."""
    width, height = (AREA[2] - AREA[0]) * SCALE, (AREA[3] - AREA[1]) * SCALE
    noise = np.random.default_rng(0).normal(78, 5, (height // 2, width // 2))
    grey = cv2.resize(noise.clip(0, 255).astype(np.uint8), (width, height), interpolation=cv2.INTER_CUBIC)
    return np.repeat(grey[:, :, None], 3, axis=2)


def _edges(image: Pixels) -> None:
    """Shade the overlap and draw the edges of both tiles."""
    (_, end), (start, _) = GRID.columns
    first, last = ((x - AREA[0]) * SCALE for x in (start, end))
    image[:, first:last] = (image[:, first:last] * 0.75 + 40).astype(np.uint8)
    for x, colour in ((last, LEFT), (first, RIGHT)):
        for y in range(0, image.shape[0], 16):
            cv2.line(image, (x, y), (x, y + 8), colour, 2)


def _points(box: Box) -> tuple[tuple[int, int], tuple[int, int]]:
    x0, y0, x1, y1 = (round((value - AREA[side % 2]) * SCALE) for side, value in enumerate(box))
    return (x0, y0), (x1, y1)


def _gap(width: int) -> Pixels:
    return np.full(((AREA[3] - AREA[1]) * SCALE, width, 3), 24, np.uint8)


def _heading() -> Pixels:
    """Return the titles of both columns."""
    half = (AREA[2] - AREA[0]) * SCALE
    strip = np.full((34, 2 * half + 4, 3), 24, np.uint8)
    for x, text, colour in (
        (4, "left tile", LEFT),
        (110, "right tile", RIGHT),
        (half + 8, "object of the scene", MERGED),
    ):
        cv2.putText(strip, text, (x, 23), cv2.FONT_HERSHEY_SIMPLEX, 0.62, colour, 1, cv2.LINE_AA)
    return strip


def _text(text: str, width: int) -> Pixels:
    strip = np.full((32, width, 3), 24, np.uint8)
    cv2.putText(strip, text, (4, 22), cv2.FONT_HERSHEY_SIMPLEX, 0.56, (235, 235, 235), 1, cv2.LINE_AA)
    return strip


if __name__ == "__main__":
    sys.exit(main())
