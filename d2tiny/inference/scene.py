"""What is known of a scene, and what was found in it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

__all__ = ["Detection", "GeoReference", "Scene", "SceneDetections"]


@dataclass(frozen=True)
class GeoReference:
    """Where the pixels of a raster lie on the ground.

    Attributes:
        crs: coordinate reference system, as ``EPSG:32631`` or WKT.
        transform: affine map (a, b, c, d, e, f) from pixels to ``crs``: x = a·column + b·row + c, y = d·column + e·row
            + f. The upper left corner of the first pixel is (0, 0). Rotated and non-square pixels are allowed.
    """

    crs: str
    transform: tuple[float, float, float, float, float, float]

    def resampled(self, x: float, y: float) -> GeoReference:
        """Return where pixels lie that are (x, y) of these wide and high."""
        a, b, c, d, e, f = self.transform
        return GeoReference(self.crs, (a * x, b * y, c, d * x, e * y, f))


@dataclass(frozen=True)
class Scene:
    """An image of any size, and how it was looked at.

    Attributes:
        path: file, or its URL; empty for an array.
        width: in px of the file.
        height: likewise.
        classes: K class names.
        geo: where the pixels lie; None for an image without coordinates.
        time: when the image was taken, ISO 8601; empty where the file does not say.
        model: what detected, such as a config's name.
        settings: bands, stretch, tile, overlap, ... as they were used, for the record.
    """

    path: str
    width: int
    height: int
    classes: tuple[str, ...]
    geo: GeoReference | None = None
    time: str = ""
    model: str = ""
    settings: dict[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """Name of the file without its folder and suffix."""
        return Path(self.path).stem


class Detection(NamedTuple):
    """One object.

    Attributes:
        box: XYXY in px of the scene.
        score: in [0, 1].
        class_id: from 0 to K - 1.
        class_name: its name.
    """

    box: tuple[float, float, float, float]
    score: float
    class_id: int
    class_name: str


@dataclass(frozen=True, eq=False)
class SceneDetections:
    """The objects of a scene, or a part of them; iterating yields each :class:`Detection`.

    Attributes:
        scene: what they were found in.
        boxes: (N, 4) float64, XYXY in px of the scene.
        scores: (N,) float32 in [0, 1].
        classes: (N,) int64, from 0 to K - 1.
    """

    scene: Scene
    boxes: np.ndarray
    scores: np.ndarray
    classes: np.ndarray

    @property
    def crs(self) -> str | None:
        """Coordinate reference system of the scene, as ``EPSG:32631`` or WKT; None for an image without coordinates."""
        return self.scene.geo.crs if self.scene.geo is not None else None

    @property
    def transform(self) -> tuple[float, float, float, float, float, float] | None:
        """Affine map from px to ``crs``, see :class:`GeoReference`; None for an image without coordinates."""
        return self.scene.geo.transform if self.scene.geo is not None else None

    def __len__(self) -> int:
        """Return the number of objects."""
        return len(self.boxes)

    def take(self, index: slice | np.ndarray) -> SceneDetections:
        """Return those of a slice, an index or a mask."""
        return SceneDetections(self.scene, self.boxes[index], self.scores[index], self.classes[index])

    def __iter__(self) -> Iterator[Detection]:
        """Yield each object."""
        names = self.scene.classes
        for box, score, cls in zip(self.boxes.tolist(), self.scores.tolist(), self.classes.tolist(), strict=True):
            yield Detection((box[0], box[1], box[2], box[3]), score, cls, names[cls])

    def to_geojson(self) -> dict[str, Any]:
        """Return a GeoJSON FeatureCollection (RFC 7946): outlines in WGS84, what a file of :meth:`to_file` holds.

        Raises:
            ConfigError: the scene has no coordinate reference system.
            ImportError: the extra ``geo`` is not installed.
        """
        from d2tiny.inference.writers.dicts import geojson_of

        return geojson_of(self)

    def to_file(self, path: str | Path) -> None:
        """Write a map, a table or a COCO json, as its suffix says.

        See :func:`~d2tiny.inference.writers.open_writer`, also for objects that do not fit into memory at once.
        """
        from d2tiny.inference.writers import open_writer

        with open_writer(path, self.scene) as writer:
            writer.write(self)

    def to_coco(self) -> dict[str, Any]:
        """Return COCO json with scores: ``images`` (this one), ``annotations`` (XYWH in px), ``categories``."""
        from d2tiny.inference.writers.dicts import coco_of

        return coco_of(self)

    def to_supervision(self) -> Any:
        """Return a ``supervision.Detections``: boxes XYXY in px, with ``data["class_name"]``.

        Raises:
            ImportError: supervision is not installed.
        """
        from d2tiny.inference.writers.dicts import supervision_of

        return supervision_of(self)

    def to_pandas(self) -> Any:
        """Return a ``pandas.DataFrame`` with the columns of a CSV, see :mod:`d2tiny.inference.writers.table`.

        Raises:
            ImportError: pandas is not installed.
        """
        from d2tiny.inference.writers.dicts import pandas_of

        return pandas_of(self)
