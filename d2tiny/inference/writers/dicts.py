"""What was found in a scene, as other programs hold it in memory."""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from typing import Any

import numpy as np

from d2tiny.inference.scene import SceneDetections
from d2tiny.inference.writers.coco import annotation_texts, categories_text, image_text
from d2tiny.inference.writers.table import about_scene, blocks, check, table
from d2tiny.inference.writers.text import features
from d2tiny.inference.writers.writer import check_writable

__all__ = ["coco_of", "geojson_of", "pandas_of", "supervision_of"]


def geojson_of(found: SceneDetections) -> dict[str, Any]:
    """Return a GeoJSON FeatureCollection, see :meth:`~d2tiny.inference.scene.SceneDetections.to_geojson`."""
    check_writable(Path("to_geojson.geojson"), found.scene)
    check(found)
    texts = [text for block in blocks(found) for text in features(block)]
    collection = {"type": "FeatureCollection", "scene": about_scene(found.scene)}
    return {**collection, "features": json.loads(f"[{','.join(texts)}]")}


def coco_of(found: SceneDetections) -> dict[str, Any]:
    """Return COCO json, see :meth:`~d2tiny.inference.scene.SceneDetections.to_coco`."""
    check(found)
    texts = annotation_texts(found, 1, 1)
    return {
        "images": [json.loads(image_text(found.scene, 1))],
        "annotations": json.loads(f"[{','.join(texts)}]"),
        "categories": json.loads(categories_text(found.scene.classes)),
    }


def supervision_of(found: SceneDetections) -> Any:
    """Return a supervision.Detections, see :meth:`~d2tiny.inference.scene.SceneDetections.to_supervision`."""
    supervision = _other("supervision")
    check(found)
    names = np.array([*found.scene.classes, ""])
    return supervision.Detections(
        xyxy=np.asarray(found.boxes, dtype=np.float32),
        confidence=np.asarray(found.scores, dtype=np.float32),
        class_id=np.asarray(found.classes, dtype=np.int64),
        data={"class_name": names[np.asarray(found.classes, dtype=np.int64)]},
    )


def pandas_of(found: SceneDetections) -> Any:
    """Return a pandas.DataFrame, see :meth:`~d2tiny.inference.scene.SceneDetections.to_pandas`."""
    pandas = _other("pandas")
    check(found)
    return pandas.DataFrame(table(found))


def _other(module: str) -> Any:
    """Import a package that d2tiny itself does not use.

    Raises:
        ImportError: it is not installed.
    """
    try:
        return importlib.import_module(module)
    except ImportError as err:
        raise ImportError(f"This needs {module}, which is not installed: pip install {module}.") from err
