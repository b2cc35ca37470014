"""AP of a detector on annotated images, whatever runs it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from d2tiny.data.loading.images import read_image
from d2tiny.runtime.detections import ArrayDetections
from d2tiny.utils.errors import ConfigError

__all__ = ["AnnotatedImages"]


class AnnotatedImages:
    """Images with their objects, on which AP is measured."""

    def __init__(self, annotations: Path, images: Path, classes: Sequence[str], protocol: str) -> None:
        """Read the annotations.

        Args:
            annotations: COCO json.
            images: folder of its images.
            classes: names of the detector's classes, in order.
            protocol: of the evaluation.

        Raises:
            ConfigError: the json has other classes.
            DatasetError: the json is broken, or has no object.
        """
        from d2tiny.data.coco.arrays import load_ground_truth
        from d2tiny.evaluation import make_protocol

        self.truth = load_ground_truth(annotations)
        self.truth.require_objects(annotations)
        if list(self.truth.classes) != list(classes):
            raise ConfigError(
                f"{annotations}: has the classes {list(self.truth.classes)}, but the model has {list(classes)}."
            )
        self._protocol = make_protocol(protocol)
        self._files = [images / name for name in self.truth.file_names]

    def average_precision(self, find: Callable[[np.ndarray], ArrayDetections]) -> float:
        """Return AP in percent of what ``find`` detects in images (H, W, 3) uint8 BGR."""
        from d2tiny.evaluation import evaluate_arrays
        from d2tiny.evaluation.detections import detections_from_dicts

        entries: list[dict[str, Any]] = []
        for image_id, file in zip(self.truth.image_ids.tolist(), self._files, strict=True):
            found = find(read_image(file, "BGR"))
            boxes = found.boxes.astype(np.float64)
            boxes[:, 2:] -= boxes[:, :2]
            categories = self.truth.category_ids[found.classes]
            for box, score, category in zip(boxes.tolist(), found.scores.tolist(), categories.tolist(), strict=True):
                entries.append({"image_id": image_id, "category_id": category, "bbox": box, "score": score})
        found_all = detections_from_dicts(self.truth, entries)
        return float(evaluate_arrays(self.truth, found_all, self._protocol).metrics()["AP"])
