"""What files say of each object besides its outline: class, score, sizes, scene, model, time."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import numpy as np

from d2tiny.inference.geo import box_sizes, to_crs, to_lonlat, transformer
from d2tiny.inference.scene import Scene, SceneDetections
from d2tiny.utils.errors import DatasetError

__all__ = ["BLOCK", "about_scene", "attributes", "blocks", "check", "measures", "no_detections", "table", "text_of"]

BLOCK = 1 << 16  # objects that are worked on at a time


def check(chunk: SceneDetections) -> None:
    """Check what is to be written.

    Raises:
        DatasetError: arrays that do not fit together, boxes or scores that are not finite, classes that do not exist.
    """
    count = len(chunk.boxes)
    shapes = np.shape(chunk.boxes), np.shape(chunk.scores), np.shape(chunk.classes)
    if shapes != ((count, 4), (count,), (count,)):
        raise DatasetError(
            f"{chunk.scene.path}: boxes, scores and classes must have the shapes (N, 4), (N,), (N,), got {shapes}."
        )
    bad = np.flatnonzero(~(np.isfinite(chunk.boxes).all(axis=1) & np.isfinite(chunk.scores)))
    if len(bad):
        raise DatasetError(
            f"{chunk.scene.path}: detection {bad[0]} is not finite: box {np.asarray(chunk.boxes)[bad[0]].tolist()}, "
            f"score {chunk.scores[bad[0]]}. Are the detector's weights finite? d2tiny check reads images."
        )
    bad = np.flatnonzero((np.asarray(chunk.classes) < 0) | (np.asarray(chunk.classes) >= len(chunk.scene.classes)))
    if len(bad):
        raise DatasetError(
            f"{chunk.scene.path}: detection {bad[0]} has class {chunk.classes[bad[0]]}, "
            f"the scene names {len(chunk.scene.classes)} classes."
        )


def blocks(chunk: SceneDetections) -> Iterator[SceneDetections]:
    """Yield a chunk in parts of at most 65,536 objects, which bound the memory of what is made of them."""
    for start in range(0, len(chunk), BLOCK):
        yield chunk.take(slice(start, start + BLOCK))


def no_detections(scene: Scene) -> SceneDetections:
    """Return a scene without objects."""
    return SceneDetections(scene, np.zeros((0, 4)), np.zeros(0, dtype=np.float32), np.zeros(0, dtype=np.int64))


def text_of(value: str) -> str:
    """Return a text that every file can hold: bytes of file names that are no UTF-8 are replaced."""
    return value.encode("utf-8", "surrogateescape").decode("utf-8", "replace")


def about_scene(scene: Scene) -> dict[str, Any]:
    """Return what a file says once of its scene: path, size, model, time and settings, as json can hold them."""
    about = {
        "path": text_of(scene.path),
        "width": scene.width,
        "height": scene.height,
        "model": scene.model,
        "time": scene.time,
        "settings": scene.settings,
    }
    return json.loads(json.dumps(about, sort_keys=True, default=str))


def measures(chunk: SceneDetections) -> dict[str, np.ndarray]:
    """Return score (4 decimals), size in px (2 decimals) and, where the scene lies on the ground, in metres (mm).

    Returns:
        Columns of (N,) float64: ``score``, ``width_px``, ``height_px``, ``width_m``, ``height_m``.
    """
    boxes = np.asarray(chunk.boxes, dtype=np.float64)
    columns: dict[str, np.ndarray] = {
        "score": np.round(np.asarray(chunk.scores, dtype=np.float64), 4),
        "width_px": np.round(boxes[:, 2] - boxes[:, 0], 2),
        "height_px": np.round(boxes[:, 3] - boxes[:, 1], 2),
    }
    if chunk.scene.geo is not None:
        sizes = np.round(box_sizes(boxes, chunk.scene.geo), 3)
        columns |= {"width_m": sizes[:, 0], "height_m": sizes[:, 1]}
    return columns


def attributes(scene: Scene) -> dict[str, str]:
    """Return what is the same for all objects of a scene: ``scene``, ``model`` and ``time``."""
    return {"scene": text_of(scene.path), "model": scene.model, "time": scene.time}


def table(chunk: SceneDetections) -> dict[str, Any]:
    """Return the columns of a table: those of a map, with the box in px and its centre on the ground for the outline.

    Returns:
        ``class`` (N,) text, ``xmin``, ``ymin``, ``xmax``, ``ymax`` in px, :func:`measures`; where the scene lies on the
        ground its centre ``x``, ``y`` in the raster's system and, where that has a place on Earth, ``longitude`` and
        ``latitude`` (WGS84); ``scene``, ``model``, ``time``.
    """
    boxes, geo = np.asarray(chunk.boxes, dtype=np.float64).reshape(-1, 4), chunk.scene.geo
    names = np.array([*chunk.scene.classes, ""], dtype=object)
    columns: dict[str, Any] = {"class": names[np.asarray(chunk.classes, dtype=np.int64)]}
    columns |= dict(zip(("xmin", "ymin", "xmax", "ymax"), (np.round(boxes, 2) + 0.0).T, strict=True))
    columns |= measures(chunk)
    if geo is not None:
        centres = to_crs((boxes[:, :2] + boxes[:, 2:]) / 2, geo)
        columns |= {"x": np.round(centres[:, 0], 8), "y": np.round(centres[:, 1], 8)}
        if _on_earth(chunk.scene):
            degrees = np.round(to_lonlat(centres[:, None], geo)[:, 0], 8)
            columns |= {"longitude": degrees[:, 0], "latitude": degrees[:, 1]}
    return columns | {key: np.full(len(boxes), value, dtype=object) for key, value in attributes(chunk.scene).items()}


def _on_earth(scene: Scene) -> bool:
    """Return whether a way is known from the scene's system to longitude and latitude."""
    try:
        transformer(scene.geo.crs if scene.geo else "", "EPSG:4326")
    except DatasetError:
        return False
    return True
