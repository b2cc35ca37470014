"""Detect objects in images of any size: a detector on overlapping tiles. Nothing here needs PyTorch."""

from __future__ import annotations

import logging
import os
from collections.abc import Generator, Iterable, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from tqdm import tqdm

from d2tiny.inference.detector import Detector, ExportedDetector
from d2tiny.inference.merge import SeamMerger, Views
from d2tiny.inference.pixels import ArrayPixels, ReadSettings, ScenePixels
from d2tiny.inference.raster import open_pixels
from d2tiny.inference.scene import Scene, SceneDetections
from d2tiny.inference.scores import Scores
from d2tiny.inference.task import SceneTask, UnitFound, Window, area_in, in_file, read_ahead
from d2tiny.inference.tiles import STRIDE, TileGrid
from d2tiny.runtime.detections import ArrayDetections
from d2tiny.utils.errors import ConfigError

if TYPE_CHECKING:
    from detectron2.config import CfgNode

__all__ = ["TileSettings", "TiledPredictor"]

logger = logging.getLogger(__name__)

_PROBES = 6  # tiles that an automatic overlap looks at
_LEAST_OVERLAP = 64  # px


@dataclass(frozen=True)
class TileSettings:
    """How scenes are cut.

    Attributes:
        tile: side of the tiles in px, a multiple of 32. Images that fit into one are predicted whole, exactly as
            ``DefaultPredictor`` does.
        overlap: of neighbours in px, or ``"auto"``: that of the largest object that is found in some tiles, and a
            quarter.
        batch: tiles that go through the model at once; more is faster on GPUs.
    """

    tile: int = 800
    overlap: int | str = "auto"
    batch: int = 1

    def __post_init__(self) -> None:
        if self.overlap != "auto" and not isinstance(self.overlap, int):
            raise ConfigError(f"overlap={self.overlap!r} must be 'auto' or a number of px.")
        if self.batch < 1:
            raise ConfigError(f"batch={self.batch} must be at least 1.")
        TileGrid(1, 1, self.tile, 0 if self.overlap == "auto" else int(self.overlap))  # refuses wrong sizes


class TiledPredictor:
    """Detects objects in images of any size, with the contract of Detectron2's ``DefaultPredictor``.

    Example:
        >>> predictor = TiledPredictor(cfg, tile=800, overlap="auto")  # doctest: +SKIP
        >>> outputs = predictor(cv2.imread("scene.jpg"))  # doctest: +SKIP
        >>> predictor.predict_scene("ortho.tif").to_file("found.gpkg")  # doctest: +SKIP
    """

    def __init__(
        self,
        cfg: CfgNode,
        tile: int = 800,
        overlap: int | str = "auto",
        *,
        batch: int = 1,
        score: Scores | None = None,
        bf16: bool = False,
        tta: bool = False,
    ) -> None:
        """Build the model and load its weights.

        Args:
            cfg: as from ``d2tiny.model_zoo.get_cfg``, with weights.
            tile: side of the tiles in px, a multiple of 32.
            overlap: px, or ``"auto"``, see :class:`TileSettings`.
            batch: tiles that go through the model at once.
            score: lowest score, in [0, 1], or one for each class, see :data:`~d2tiny.inference.scores.Scores`; default:
                that of the config.
            bf16: compute convolutions and linear layers in bfloat16.
            tta: look at each image and its mirror image, and fuse what is found, see
                :class:`~d2tiny.inference.tta.TestTimeAugmentation`; twice the time.

        Raises:
            ConfigError: settings outside their range.
            CheckpointError: weights that do not fit.
        """
        settings = TileSettings(tile, overlap, batch)
        from d2tiny.inference.torch_detector import TorchDetector

        self._start(settings, TorchDetector(cfg, score=score, bf16=bf16, tta=tta))

    @classmethod
    def from_export(
        cls,
        path: str | os.PathLike[str],
        tile: int | None = None,
        overlap: int | str = "auto",
        *,
        batch: int = 1,
        score: Scores | None = None,
        backend: str | None = None,
        num_threads: int | None = None,
    ) -> TiledPredictor:
        """Load an exported model; PyTorch is not needed, and not imported.

        The result is called with images of the same form, and gives ``{"instances": ArrayInstances}``, see
        :class:`~d2tiny.runtime.ArrayInstances`: the names of Detectron2's ``Instances``, as numpy arrays.

        Args:
            path: ``.onnx``, ``.xml`` of OpenVINO, or a folder with one of them.
            tile: side of the tiles in px, a multiple of 32; default: what the model says.
            overlap: px, or ``"auto"``, see :class:`TileSettings`.
            batch: tiles that go through the model at once.
            score: lowest score, in [0, 1], or one for each class; default: that of the model.
            backend: ``openvino`` or ``onnxruntime``; default: OpenVINO where it is installed.
            num_threads: that compute; default: ``OMP_NUM_THREADS``, else all processors.

        Raises:
            ConfigError: settings outside their range, or that the model cannot have.
            CheckpointError: no such file, a damaged one, or none that d2tiny exported.
            MissingPackageError: the library that runs it is not installed.
        """
        if tile is not None:
            TileSettings(tile, overlap, batch)  # refuses wrong ones before the model is loaded
        detector = ExportedDetector(path, score=score, backend=backend, num_threads=num_threads)
        settings = TileSettings(tile or detector.model.metadata.tile, overlap, batch)
        detector.require_tile(settings.tile)
        predictor = cls.__new__(cls)
        predictor._start(settings, detector)
        return predictor

    def _start(self, settings: TileSettings, detector: Detector) -> None:
        """Combine settings and what finds objects in tiles."""
        self.settings, self.detector = settings, detector
        self.classes, self.merge_settings = detector.classes, detector.merge_settings

    @property
    def model(self) -> Any:
        """The model: a module of PyTorch, or an :class:`~d2tiny.runtime.ExportedModel`."""
        return self.detector.model  # type: ignore[attr-defined]

    @property
    def cfg(self) -> CfgNode:
        """The config; exported models have none, but ``model.metadata``."""
        return self.detector.cfg  # type: ignore[attr-defined]

    def __call__(self, original_image: np.ndarray) -> dict[str, Any]:
        """Predict an image.

        Args:
            original_image: (H, W, 3) uint8, BGR, of any size.

        Returns:
            ``{"instances": Instances}`` with ``pred_boxes``, ``scores``, ``pred_classes`` in px of the image; of an
            exported model ``{"instances": ArrayInstances}``.

        Raises:
            ImageError: it is no such image; says how to convert it.
        """
        self.detector.check(original_image)
        height, width = original_image.shape[:2]
        if self.fits(width, height):
            with self.autocast():
                return self.detector.predict(original_image)
        pixels = ArrayPixels(np.ascontiguousarray(original_image[:, :, ::-1]))
        found = self.predict_pixels(pixels, Scene("", width, height, tuple(self.classes)))
        arrays = ArrayDetections(found.boxes, found.scores, found.classes)
        return {"instances": self.detector.instances((height, width), arrays)}

    def predict_scene(
        self,
        path: str | os.PathLike[str],
        *,
        stretch: Any = None,
        bands: tuple[int, ...] | None = None,
        gsd: float | None = None,
        resize: float | None = None,
        aoi: str | Path | None = None,
        progress: bool = False,
    ) -> SceneDetections:
        """Predict an image file of any size.

        Args:
            path: file or URL.
            stretch: scale of values that are not 8-bit: ``"min,max"`` or percentiles; default ``"2%,98%"``.
            bands: those that become red, green and blue, counted from 1.
            gsd: metres a pixel that the raster is resampled to.
            resize: factor of both sides of the image, so that objects have the size that the detector was trained for.
            aoi: file with the area that is searched (GeoJSON, GeoPackage, ...), in any coordinate system.
            progress: show a bar.

        Returns:
            What was found, in px of the file.

        Raises:
            DatasetError: the file cannot be read, or not unambiguously.
            ConfigError: settings that do not fit it.
            ImportError: it needs an extra that is not installed.
        """
        pixels = open_pixels(path, ReadSettings(stretch, bands, gsd, resize), self.settings.tile)
        try:
            width, height = pixels.file_size
            scene = Scene(os.fspath(path), width, height, tuple(self.classes), pixels.geo, pixels.time)
            return self.predict_pixels(pixels, scene, aoi=aoi, progress=progress)
        finally:
            pixels.close()

    def predict_pixels(
        self, pixels: ScenePixels, scene: Scene, *, aoi: str | Path | None = None, progress: bool = False
    ) -> SceneDetections:
        """Predict a scene that is open, see :meth:`predict_scene`."""
        task = SceneTask(pixels, self.grid(pixels), area_in(pixels.geo, pixels.file_size, aoi))
        merger = SeamMerger(task.grid, self.merge_settings)
        parts = [Views.empty()]
        bar = tqdm(total=len(task.grid), desc=scene.name or "scene", unit="tile", disable=not progress, leave=False)
        with bar, self.autocast():
            for unit, found in self.found(task, task.grid.units(self.settings.batch)):
                for tile in unit:
                    parts += merger.add(tile, *found.of_tile(tile))
                bar.update(len(unit))
        used = {**pixels.chosen, "tile": task.grid.tile, "overlap": task.grid.overlap}
        scene = replace(scene, settings={**used, **scene.settings})
        return SceneDetections(scene, *in_file(Views.joined(parts), pixels.scale, task.area))

    def autocast(self) -> Any:
        """Return a context for predictions; around many, because it keeps weights that it has cast until it is left."""
        return self.detector.autocast()

    def grid(self, pixels: ScenePixels) -> TileGrid:
        """Return the tiles of a scene; where the overlap is automatic, look at some of them."""
        tile = self.settings.tile
        if self.fits(pixels.width, pixels.height):
            # One tile, whose sides need not be multiples of anything.
            return TileGrid(pixels.width, pixels.height, tile, 0)
        overlap = self.overlap(pixels) if self.settings.overlap == "auto" else int(self.settings.overlap)
        return TileGrid(pixels.width, pixels.height, tile, overlap)

    def overlap(self, pixels: ScenePixels) -> int:
        """Return an overlap in px that is larger than the objects of some tiles of a scene."""
        grid = TileGrid(pixels.width, pixels.height, self.settings.tile, 0)
        task = SceneTask(pixels, grid)
        # Not more than a third of the scene is looked at twice.
        count = min(_PROBES, -(-len(grid) // 3))
        probes = sorted(set(np.linspace(0, len(grid) - 1, count + 2)[1:-1].round().astype(int).tolist()))
        with self.autocast():
            sides = [
                found.boxes[:, 2:] - found.boxes[:, :2] for _, found in self.found(task, ((tile,) for tile in probes))
            ]
        largest = np.concatenate(sides).max(axis=1) if sides else np.zeros(0)
        # A few of the largest may be errors; what is larger than the overlap is joined from its parts.
        wanted = float(np.quantile(largest, 0.99)) * 1.25 if len(largest) else 0.0
        overlap = min(max(_LEAST_OVERLAP, int(np.ceil(wanted / STRIDE)) * STRIDE), self.settings.tile * 3 // 8)
        logger.info("overlap: %d px, for objects of up to %.0f px in %d tiles.", overlap, wanted / 1.25, len(probes))
        return overlap

    def found(
        self, task: SceneTask, units: Iterable[Sequence[int]]
    ) -> Generator[tuple[Sequence[int], UnitFound], None, None]:
        """Yield what is in each unit of tiles; the next ones are read meanwhile."""
        with closing(read_ahead(units, task.read)) as reading:
            for unit, windows in reading:
                yield unit, self.find(windows, task.whole)

    def find(self, windows: Sequence[Window], whole: bool) -> UnitFound:
        """Return what is in some tiles that were read; ``whole``: the tile is the scene."""
        found = []
        left = [w for w in windows if w.image is not None]
        # Only tiles of one size share a batch: padding could change what is found in the smaller ones.
        while left:
            shape = left[0].image.shape
            batch = [w for w in left if w.image.shape == shape]
            left = [w for w in left if w.image.shape != shape]
            for window, instances in zip(batch, self.detect([w.image for w in batch], whole=whole), strict=True):
                found.append(window.accepted(instances))
        return UnitFound.joined(found)

    def detect(self, images: Sequence[np.ndarray], *, whole: bool = False) -> list[Any]:
        """Run the model on images of one size, as ``DefaultPredictor`` prepares them.

        Args:
            images: (h, w, 3) each, uint8 RGB.
            whole: resize them by their own size, as the config tells; otherwise by that of a tile.

        Returns:
            Detectron2's ``Instances`` of each; of an exported model ``ArrayInstances``.
        """
        return self.detector.detect(images, None if whole else self.settings.tile)

    def fits(self, width: int, height: int) -> bool:
        """Return whether a scene of this size in px fits into one tile, and is predicted whole."""
        return max(width, height) <= self.settings.tile
