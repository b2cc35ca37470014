"""Scenes and objects in them, made for tests."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from d2tiny.inference.scene import GeoReference, Scene, SceneDetections

CLASSES = ("car", 'ship 100% <&"ü', "person")
# What lies where can be said by hand: zone 31's middle meridian is 3° east, and northing 0 is the equator.
UTM = GeoReference("EPSG:32631", (0.5, 0.0, 500_000.0, 0.0, -0.5, 5_000_000.0))


def scene(geo: GeoReference | None = UTM, path: str = "scenes/ortho.tif", classes: Sequence[str] = CLASSES) -> Scene:
    """Return a scene of 4000 by 3000 px."""
    settings = {"tile": 800, "stretch": [2.0, 98.0]}
    return Scene(path, 4000, 3000, tuple(classes), geo, "2024-05-01T10:00:00Z", "rfla", settings)


def found(
    boxes: Sequence[Sequence[float]], geo: GeoReference | None = UTM, classes: Sequence[int] | None = None
) -> SceneDetections:
    """Return objects with scores 0.9, 0.8, ... and classes 0, 1, 2, 0, ..."""
    count = len(boxes)
    scores = np.maximum(0.9 - 0.1 * np.arange(count), 0.05).astype(np.float32)
    numbers = np.arange(count) % len(CLASSES) if classes is None else np.array(classes)
    return SceneDetections(
        scene(geo), np.array(boxes, dtype=np.float64).reshape(-1, 4), scores, numbers.astype(np.int64)
    )


def many(count: int, seed: int = 0, of: Scene | None = None) -> SceneDetections:
    """Return ``count`` objects of 2 to 40 px anywhere in a scene."""
    of = of or scene()
    rng = np.random.default_rng(seed)
    corners = rng.uniform(0, (of.width - 40, of.height - 40), (count, 2))
    boxes = np.concatenate((corners, corners + rng.uniform(2, 40, (count, 2))), axis=1)
    return SceneDetections(of, boxes, rng.random(count, dtype=np.float32), rng.integers(0, len(of.classes), count))


def part(objects: SceneDetections, start: int, stop: int) -> SceneDetections:
    """Return objects ``start`` to ``stop``."""
    which = slice(start, stop)
    return SceneDetections(objects.scene, objects.boxes[which], objects.scores[which], objects.classes[which])
