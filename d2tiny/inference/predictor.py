"""Detect objects in images of any size: ``DefaultPredictor`` on overlapping tiles."""

from __future__ import annotations

import logging
import os
from collections.abc import Generator, Iterable, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.data.transforms import ResizeTransform
from detectron2.engine import DefaultPredictor
from detectron2.structures import Boxes, Instances
from tqdm import tqdm

from d2tiny.config.lazy import load_config
from d2tiny.data.datasets.register import class_names
from d2tiny.inference.merge import MergeSettings, SeamMerger, Views
from d2tiny.inference.pixels import ArrayPixels, ReadSettings, ScenePixels
from d2tiny.inference.raster import open_pixels
from d2tiny.inference.scene import Scene, SceneDetections
from d2tiny.inference.task import SceneTask, UnitFound, Window, area_in, in_file, read_ahead
from d2tiny.inference.tiles import STRIDE, TileGrid
from d2tiny.inference.tta import TestTimeAugmentation
from d2tiny.modeling.meta_arch.lazy import shared_path
from d2tiny.ops.grid_nms import LEAST_THRESHOLD
from d2tiny.utils.errors import ConfigError, DatasetError
from d2tiny.utils.precision import mixed_precision, warn_of_slow_precision
from d2tiny.utils.weights import load_weights

__all__ = ["TileSettings", "TiledPredictor", "dataset_classes"]

logger = logging.getLogger(__name__)

_PROBES = 6  # tiles that an automatic overlap looks at
_LEAST_OVERLAP = 64  # px


def dataset_classes(name: str, num_classes: int) -> list[str]:
    """Return a dataset's class names, or numbers where the dataset is unknown or absent."""
    classes: list[str] = []
    try:
        classes = class_names(name)
    except DatasetError as err:
        logger.warning("Class names are unknown: %s", err)
    return classes if len(classes) == num_classes else [f"class {i}" for i in range(num_classes)]


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


def _nms_threshold(cfg: CfgNode) -> float:
    """Return the IoU above which the detector removes the worse of two objects; 1 for detectors that do not."""
    if cfg.D2TINY.LAZY_CONFIG:
        lazy = load_config(cfg.D2TINY.LAZY_CONFIG, cfg.D2TINY.LAZY_OVERRIDES)
        if shared_path(lazy, "MODEL.ROI_HEADS.NMS_THRESH_TEST") is None:
            return 1.0
    return min(1.0, max(LEAST_THRESHOLD, cfg.MODEL.ROI_HEADS.NMS_THRESH_TEST))


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
        score: float | None = None,
        bf16: bool = False,
        tta: bool = False,
    ) -> None:
        """Build the model and load its weights.

        Args:
            cfg: as from ``d2tiny.model_zoo.get_cfg``, with weights.
            tile: side of the tiles in px, a multiple of 32.
            overlap: px, or ``"auto"``, see :class:`TileSettings`.
            batch: tiles that go through the model at once.
            score: lowest score, in [0, 1]; default: that of the config.
            bf16: compute convolutions and linear layers in bfloat16.
            tta: look at each image and its mirror image, and fuse what is found, see
                :class:`~d2tiny.inference.tta.TestTimeAugmentation`; twice the time.

        Raises:
            ConfigError: settings outside their range.
            CheckpointError: weights that do not fit.
        """
        self.settings = TileSettings(tile, overlap, batch)
        self.cfg = cfg.clone()
        if score is not None:
            if not 0 <= score <= 1:
                raise ConfigError(f"--score must be in [0, 1], got {score}.")
            self.cfg.MODEL.ROI_HEADS.SCORE_THRESH_TEST = score
        weights, self.cfg.MODEL.WEIGHTS = self.cfg.MODEL.WEIGHTS, ""
        self._predictor = DefaultPredictor(self.cfg)
        if weights:  # strictly: weights of another config would leave parts of the model at random
            load_weights(self._predictor.model, weights)
        self.cfg.MODEL.WEIGHTS = weights
        self._device = self.cfg.MODEL.DEVICE
        self._dtype = torch.bfloat16 if bf16 else None
        if bf16:  # a layout that bfloat16 convolutions prefer
            self._predictor.model.to(memory_format=torch.channels_last)
            warn_of_slow_precision(self._device, self._dtype, "--bf16")
        if tta:
            self._predictor.model = TestTimeAugmentation(self._predictor.model).eval()
        known, heads = list(self.cfg.D2TINY.CLASSES), self.cfg.MODEL.ROI_HEADS
        self.classes: Sequence[str] = known or dataset_classes(self.cfg.DATASETS.TEST[0], heads.NUM_CLASSES)
        self.merge_settings = MergeSettings(nms=_nms_threshold(self.cfg))

    @property
    def model(self) -> torch.nn.Module:
        """The model."""
        return self._predictor.model

    def __call__(self, original_image: np.ndarray) -> dict[str, Instances]:
        """Predict an image.

        Args:
            original_image: (H, W, 3) uint8, BGR, of any size.

        Returns:
            ``{"instances": Instances}`` with ``pred_boxes``, ``scores``, ``pred_classes`` in px of the image.
        """
        height, width = original_image.shape[:2]
        if self.fits(width, height):
            with self.autocast():
                result: dict[str, Instances] = self._predictor(original_image)
            return result
        pixels = ArrayPixels(np.ascontiguousarray(original_image[:, :, ::-1]))
        found = self.predict_pixels(pixels, Scene("", width, height, tuple(self.classes)))
        instances = Instances((height, width))
        instances.pred_boxes = Boxes(torch.from_numpy(found.boxes.astype(np.float32)))
        instances.scores = torch.from_numpy(found.scores)
        instances.pred_classes = torch.from_numpy(found.classes)
        return {"instances": instances}

    def predict_scene(
        self,
        path: str | os.PathLike[str],
        *,
        stretch: Any = None,
        bands: tuple[int, ...] | None = None,
        gsd: float | None = None,
        aoi: str | Path | None = None,
        progress: bool = False,
    ) -> SceneDetections:
        """Predict an image file of any size.

        Args:
            path: file or URL.
            stretch: scale of values that are not 8-bit: ``"min,max"`` or percentiles; default ``"2%,98%"``.
            bands: those that become red, green and blue, counted from 1.
            gsd: metres a pixel that the raster is resampled to.
            aoi: file with the area that is searched (GeoJSON, GeoPackage, ...), in any coordinate system.
            progress: show a bar.

        Returns:
            What was found, in px of the file.

        Raises:
            DatasetError: the file cannot be read, or not unambiguously.
            ConfigError: settings that do not fit it.
            ImportError: it needs an extra that is not installed.
        """
        pixels = open_pixels(path, ReadSettings(stretch, bands, gsd), self.settings.tile)
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
        return mixed_precision(self._device, self._dtype, "--bf16")

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

    @torch.no_grad()
    def detect(self, images: Sequence[np.ndarray], *, whole: bool = False) -> list[Instances]:
        """Run the model on images of one size, as ``DefaultPredictor`` prepares them.

        Args:
            images: (h, w, 3) each, uint8 RGB.
            whole: resize them by their own size, as the config tells; otherwise by that of a tile.
        """
        height, width = images[0].shape[:2]
        transform = self._resize(width, height, whole)
        inputs = []
        for image in images:
            ordered = image if self._predictor.input_format == "RGB" else image[:, :, ::-1]
            resized = np.ascontiguousarray(transform.apply_image(ordered))
            tensor = torch.as_tensor(resized.astype("float32").transpose(2, 0, 1)).to(self.cfg.MODEL.DEVICE)
            inputs.append({"image": tensor, "height": height, "width": width})
        return [output["instances"].to("cpu") for output in self._predictor.model(inputs)]

    def fits(self, width: int, height: int) -> bool:
        """Return whether a scene of this size in px fits into one tile, and is predicted whole."""
        return max(width, height) <= self.settings.tile

    def _resize(self, width: int, height: int, whole: bool) -> Any:
        """Return the config's resizing: of this image, or of a whole tile, so that all tiles have one scale."""
        aug, tile = self._predictor.aug, self.settings.tile
        if whole:
            return aug.get_transform(np.empty((height, width, 1), np.uint8))
        full = aug.get_transform(np.empty((tile, tile, 1), np.uint8))
        if not isinstance(full, ResizeTransform):
            return full
        factor = full.new_w / tile
        return ResizeTransform(height, width, max(1, round(height * factor)), max(1, round(width * factor)))
