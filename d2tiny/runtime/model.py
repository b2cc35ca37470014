"""An exported detector: images in, boxes out, without PyTorch."""

from __future__ import annotations

import logging
import os

import numpy as np

from d2tiny.runtime.backends import choose_backend, default_threads, open_session
from d2tiny.runtime.detections import ArrayDetections
from d2tiny.runtime.files import find_model
from d2tiny.runtime.metadata import ModelMetadata
from d2tiny.utils.errors import CheckpointError, ConfigError, ImageError
from d2tiny.utils.image_arrays import require_array

__all__ = ["ExportedModel"]

logger = logging.getLogger(__name__)


class ExportedModel:
    """A detector in an ``.onnx`` file, or in an ``.xml`` of OpenVINO with its ``.bin``.

    The graph takes ``images`` (B, H, W, 3) uint8 and gives ``boxes`` (B, D, 4) float32 XYXY in px of these, ``scores``
    (B, D) float32, ``classes`` (B, D) int64 and ``num_detections`` (B,) int64; rows beyond that number are not used.

    Example:
        >>> model = ExportedModel("model/")  # doctest: +SKIP
        >>> [found] = model(image[None])  # uint8, RGB or BGR as model.metadata.channels says  # doctest: +SKIP
        >>> found.boxes, found.scores, found.classes  # doctest: +SKIP
    """

    def __init__(
        self, path: str | os.PathLike[str], *, backend: str | None = None, num_threads: int | None = None
    ) -> None:
        """Load a model; which library runs it is logged.

        Args:
            path: the file, or a folder with one model.
            backend: ``openvino``, ``onnxruntime``, or None for OpenVINO where it is installed.
            num_threads: that compute; default: ``OMP_NUM_THREADS``, else all processors.

        Raises:
            CheckpointError: no such file, a damaged one, or none that d2tiny exported.
            ConfigError: an unknown library, one that cannot run this file, or metadata of another version.
            MissingPackageError: the library is not installed.
        """
        if num_threads is not None and (isinstance(num_threads, bool) or num_threads < 1):
            raise ConfigError(f"num_threads={num_threads} must be at least 1.")
        self.path = find_model(path)
        threads = num_threads or default_threads()
        self._session = open_session(self.path, choose_backend(self.path, backend), threads)
        logger.info("%s: %s by %s, %d threads.", self.path, self.metadata.precision, self.backend, threads)

    @property
    def backend(self) -> str:
        """The library that runs it."""
        return self._session.backend

    @property
    def metadata(self) -> ModelMetadata:
        """What the model says of itself."""
        return self._session.metadata

    def __call__(self, images: np.ndarray) -> list[ArrayDetections]:
        """Find objects in images of one size.

        Args:
            images: (B, H, W, 3) uint8, channels in the order of ``metadata.channels``; as the graph takes them, after
                ``metadata.resize``.

        Returns:
            What is in each image, in px of it, by falling score.

        Raises:
            ImageError: another shape or number type, or a size that the graph does not take.
            MemoryError: the image is too large.
            CheckpointError: the graph fails on it.
        """
        self._require_images(images)
        images = np.ascontiguousarray(images)
        if len(images) > 1 and (not self.metadata.batch or self._session.sides[0] == 1):
            return [found for image in images for found in self._run(image[None])]
        return self._run(images)

    def _run(self, images: np.ndarray) -> list[ArrayDetections]:
        try:
            boxes, scores, classes, counts = self._session.run(images)
        except MemoryError:
            raise
        except Exception as err:  # each library has errors of its own
            text = str(err)
            if any(word in text.lower() for word in ("alloc", "memory")):
                raise MemoryError(text) from err
            raise CheckpointError(
                f"{self.path}: the graph fails on images of shape {images.shape} ({text.strip().splitlines()[0]})."
            ) from err
        return [
            _sorted(ArrayDetections(boxes[i, :n], scores[i, :n], classes[i, :n].astype(np.int32)))
            for i, n in enumerate(counts.ravel().tolist())
        ]

    def _require_images(self, images: np.ndarray) -> None:
        wanted = "images must be a numpy array (B, H, W, 3) uint8"
        if not isinstance(images, np.ndarray) or images.ndim != 4:
            got = f"shape {images.shape}" if isinstance(images, np.ndarray) else type(images).__name__
            raise ImageError(f"{wanted}, got {got}. One image is a batch of one: image[None].")
        if not len(images):
            raise ImageError(f"{wanted}, got shape {images.shape}, which has no image.")
        require_array(images[0])
        if images.dtype != np.uint8:
            raise ImageError(f"{wanted}, got {images.dtype}. Convert them: images.round().astype(numpy.uint8).")
        height, width = images.shape[1:3]
        _, h, w = self._session.sides
        if (h or height, w or width) != (height, width):
            raise ImageError(f"{self.path}: takes images of {w or 'any'}×{h or 'any'} px only, got {width}×{height}.")
        if self.metadata.max_size is not None and max(height, width) > self.metadata.max_size:
            raise ImageError(
                f"{self.path}: takes images of up to {self.metadata.max_size} px, got {width}×{height}. Cut larger "
                "ones into tiles: TiledPredictor.from_export, d2tiny predict --tile."
            )


def _sorted(found: ArrayDetections) -> ArrayDetections:
    """Return detections by falling score; equal ones keep their order."""
    if (found.scores[1:] <= found.scores[:-1]).all():
        return found
    return found.take(np.argsort(-found.scores, kind="stable"))
