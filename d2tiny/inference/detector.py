"""What finds objects in images of one size: the contract between tiles and models, and exported models behind it."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Protocol

import numpy as np

from d2tiny.inference.merge import MergeSettings
from d2tiny.inference.scores import Scores, ScoreThresholds, plain_scores
from d2tiny.ops.grid_nms import LEAST_THRESHOLD
from d2tiny.runtime.detections import ArrayDetections, ArrayInstances
from d2tiny.runtime.model import ExportedModel
from d2tiny.runtime.resize import Resize, resized
from d2tiny.utils.errors import ConfigError, ImageError
from d2tiny.utils.image_arrays import require_array

__all__ = ["Detector", "ExportedDetector", "merged_nms"]

logger = logging.getLogger(__name__)


def merged_nms(threshold: float) -> float:
    """Return the IoU for merging of a detector that removes the worse of two objects above a threshold."""
    return min(1.0, max(LEAST_THRESHOLD, threshold))


class Detector(Protocol):
    """Finds objects in images of one size.

    Attributes:
        classes: K class names.
        merge_settings: constants of merging.
    """

    classes: Sequence[str]
    merge_settings: MergeSettings

    def check(self, image: object) -> None:
        """Refuse what is no image, with an ImageError that says how to convert it."""
        ...

    def predict(self, image: np.ndarray) -> dict[str, Any]:
        """Return ``{"instances": ...}`` of a whole image (H, W, 3) BGR."""
        ...

    def detect(self, images: Sequence[np.ndarray], tile: int | None) -> list[Any]:
        """Return the instances of images (h, w, 3) uint8 RGB of one size, in px of them.

        Args:
            images: the images.
            tile: they are parts of a scene, resized as a whole tile of this side in px is; None resizes them by their
                own size.
        """
        ...

    def instances(self, size: tuple[int, int], found: ArrayDetections) -> Any:
        """Return arrays as the instances that this detector gives, of an image (height, width)."""
        ...

    def autocast(self) -> AbstractContextManager[object]:
        """Return a context for many calls of :meth:`detect`."""
        ...


class ExportedDetector:
    """An exported model as a :class:`Detector`; neither PyTorch nor Detectron2 is imported."""

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        score: Scores | None = None,
        backend: str | None = None,
        num_threads: int | None = None,
    ) -> None:
        """Load a model, see :class:`~d2tiny.runtime.ExportedModel`.

        Args:
            path: the file, or a folder with one model.
            score: lowest score, in [0, 1], or one for each class; default: that of the model.
            backend: library that runs it.
            num_threads: that compute.
        """
        if score is not None:
            plain_scores(score)  # refuses wrong ones before the model is loaded
        self.model = ExportedModel(path, backend=backend, num_threads=num_threads)
        about = self.model.metadata
        self.score: Scores = about.score_thresh if score is None else score
        self._thresholds = ScoreThresholds(self.score, about.classes)
        if self._thresholds.lowest < about.score_thresh:
            logger.warning(
                "--score %g: this model was exported without what has a score below %g.",
                self._thresholds.lowest,
                about.score_thresh,
            )
        self._resize = Resize.from_dict(about.resize)
        self.classes: Sequence[str] = about.classes
        self.merge_settings = MergeSettings(nms=merged_nms(about.nms_thresh))

    def check(self, image: object) -> None:
        """Refuse what is no image (H, W, 3) uint8, with an ImageError that says how to convert it."""
        require_array(image)
        if isinstance(image, np.ndarray) and image.dtype != np.uint8:
            raise ImageError(f"Exported models take uint8, got {image.dtype}: image.round().astype(numpy.uint8).")

    def require_tile(self, tile: int) -> None:
        """Refuse tiles that are larger than what the graph takes.

        Raises:
            ConfigError: they are.
        """
        side = tile if self._resize is None else max(self._resize.size(tile, tile))
        largest = self.model.metadata.max_size
        if largest is not None and side > largest:
            raise ConfigError(f"--tile {tile}: {self.model.path} takes images of up to {largest} px, after resizing.")

    def predict(self, image: np.ndarray) -> dict[str, ArrayInstances]:
        """Return ``{"instances": ...}`` of a whole image (H, W, 3) uint8 BGR."""
        return {"instances": self.detect([image[:, :, ::-1]], None)[0]}

    def detect(self, images: Sequence[np.ndarray], tile: int | None) -> list[ArrayInstances]:
        """Return the instances of images of one size, see :class:`Detector`."""
        height, width = images[0].shape[:2]
        size = self._size(height, width, tile)
        batch = [self._prepared(image, size) for image in images]
        found = self.model(np.stack(batch))
        return [ArrayInstances.of((height, width), self._kept(one.scaled(size, (height, width)))) for one in found]

    def _size(self, height: int, width: int, tile: int | None) -> tuple[int, int]:
        """Return (height, width) in px that the graph sees."""
        if self._resize is None:
            return height, width
        return self._resize.size(height, width) if tile is None else self._resize.tile_size(height, width, tile)

    def _prepared(self, image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
        ordered = image if self.model.metadata.channels == "RGB" else image[:, :, ::-1]
        return ordered if self._resize is None else resized(ordered, size)

    def _kept(self, found: ArrayDetections) -> ArrayDetections:
        return found.take(self._thresholds.kept(found.scores, found.classes))

    def instances(self, size: tuple[int, int], found: ArrayDetections) -> ArrayInstances:
        """Return arrays as the instances that this detector gives."""
        return ArrayInstances.of(size, found)

    def autocast(self) -> AbstractContextManager[object]:
        """Return a context that does nothing: the precision is in the model."""
        return nullcontext()
