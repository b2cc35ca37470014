"""A trained model behind the contract of tiles: Detectron2's ``DefaultPredictor``."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Any

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.data.transforms import ResizeTransform
from detectron2.engine import DefaultPredictor
from detectron2.structures import Boxes, Instances

from d2tiny.config.lazy import load_config
from d2tiny.data.datasets.register import class_names
from d2tiny.inference.detector import merged_nms
from d2tiny.inference.merge import MergeSettings
from d2tiny.inference.scores import Scores, ScoreThresholds
from d2tiny.inference.tta import TestTimeAugmentation
from d2tiny.modeling.meta_arch.inputs import num_channels
from d2tiny.modeling.meta_arch.lazy import shared_path
from d2tiny.runtime.detections import ArrayDetections
from d2tiny.utils.errors import DatasetError
from d2tiny.utils.image_arrays import require_array
from d2tiny.utils.precision import mixed_precision, warn_of_slow_precision
from d2tiny.utils.weights import load_weights

__all__ = ["TorchDetector", "dataset_classes"]

logger = logging.getLogger(__name__)


def dataset_classes(name: str, num_classes: int) -> list[str]:
    """Return a dataset's class names, or numbers where the dataset is unknown or absent."""
    classes: list[str] = []
    try:
        classes = class_names(name)
    except DatasetError as err:
        logger.warning("Class names are unknown: %s", err)
    return classes if len(classes) == num_classes else [f"class {i}" for i in range(num_classes)]


def _nms_threshold(cfg: CfgNode) -> float:
    """Return the IoU above which the detector removes the worse of two objects; 1 for detectors that do not."""
    if cfg.D2TINY.LAZY_CONFIG:
        lazy = load_config(cfg.D2TINY.LAZY_CONFIG, cfg.D2TINY.LAZY_OVERRIDES)
        if shared_path(lazy, "MODEL.ROI_HEADS.NMS_THRESH_TEST") is None:
            return 1.0
    return merged_nms(cfg.MODEL.ROI_HEADS.NMS_THRESH_TEST)


class TorchDetector:
    """A model of a config with its weights, as a :class:`~d2tiny.inference.detector.Detector`."""

    def __init__(self, cfg: CfgNode, *, score: Scores | None = None, bf16: bool = False, tta: bool = False) -> None:
        """Build the model and load its weights; arguments as of ``TiledPredictor``.

        Raises:
            ConfigError: settings outside their range.
            CheckpointError: weights that do not fit.
        """
        self.cfg = cfg.clone()
        known, heads = list(cfg.D2TINY.CLASSES), self.cfg.MODEL.ROI_HEADS
        self.classes: Sequence[str] = known or dataset_classes(cfg.DATASETS.TEST[0], heads.NUM_CLASSES)
        self._thresholds: ScoreThresholds | None = None
        if score is not None:
            self._thresholds = ScoreThresholds(score, self.classes)
            heads.SCORE_THRESH_TEST = self._thresholds.lowest
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
        self.merge_settings = MergeSettings(nms=_nms_threshold(self.cfg))

    @property
    def model(self) -> torch.nn.Module:
        """The model."""
        return self._predictor.model

    @property
    def augmentation(self) -> Any:
        """What ``DefaultPredictor`` does to images before the model."""
        return self._predictor.aug

    def check(self, image: object) -> None:
        """Refuse what is no image (H, W, C), with an ImageError that says how to convert it."""
        require_array(image, num_channels(self.model))

    def predict(self, image: np.ndarray) -> dict[str, Instances]:
        """Return what ``DefaultPredictor`` gives for a whole image (H, W, 3) BGR."""
        result: dict[str, Instances] = self._predictor(image)
        return {**result, "instances": self._kept(result["instances"])}

    @torch.no_grad()
    def detect(self, images: Sequence[np.ndarray], tile: int | None) -> list[Instances]:
        """Return the instances of images of one size, as ``DefaultPredictor`` prepares them."""
        height, width = images[0].shape[:2]
        transform = self._transform(width, height, tile)
        inputs = []
        for image in images:
            ordered = image if self._predictor.input_format == "RGB" else image[:, :, ::-1]
            resized = np.ascontiguousarray(transform.apply_image(ordered))
            tensor = torch.as_tensor(resized.astype("float32").transpose(2, 0, 1)).to(self.cfg.MODEL.DEVICE)
            inputs.append({"image": tensor, "height": height, "width": width})
        return [self._kept(output["instances"].to("cpu")) for output in self._predictor.model(inputs)]

    def _kept(self, found: Instances) -> Instances:
        """Leave out what is under the lowest score of its class.

        The model itself knows one for all classes, and with several views of an image leaves out by that of each view.
        """
        if self._thresholds is None:
            return found
        kept = self._thresholds.kept(found.scores.float().cpu().numpy(), found.pred_classes.cpu().numpy())
        return found[torch.from_numpy(kept).to(found.scores.device)]

    def _transform(self, width: int, height: int, tile: int | None) -> Any:
        """Return the config's resizing: of this image, or of a whole tile, so that all tiles have one scale."""
        aug = self.augmentation
        if tile is None:
            return aug.get_transform(np.empty((height, width, 1), np.uint8))
        full = aug.get_transform(np.empty((tile, tile, 1), np.uint8))
        if not isinstance(full, ResizeTransform):
            return full
        factor = full.new_w / tile
        return ResizeTransform(height, width, max(1, round(height * factor)), max(1, round(width * factor)))

    def instances(self, size: tuple[int, int], found: ArrayDetections) -> Instances:
        """Return arrays as Detectron2's ``Instances``."""
        instances = Instances(size)
        instances.pred_boxes = Boxes(torch.from_numpy(found.boxes.astype(np.float32)))
        instances.scores = torch.from_numpy(found.scores)
        instances.pred_classes = torch.from_numpy(found.classes)
        return instances

    def autocast(self) -> AbstractContextManager[object]:
        """Return a context for predictions; around many, because it keeps weights that it has cast until it is left."""
        return mixed_precision(self._device, self._dtype, "--bf16")
