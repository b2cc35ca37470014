"""Dataset mapper: from a Detectron2 dataset dict to a training or test input."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
import torch
from detectron2.data import transforms as T
from detectron2.structures import Boxes, BoxMode, Instances

from d2tiny.data.coco.boxes import xywh_to_xyxy
from d2tiny.data.loading.images import DecodedCache, read_image
from d2tiny.data.loading.stretch import StretchLike, make_stretch
from d2tiny.utils.errors import DatasetError

__all__ = ["TinyDatasetMapper"]


class TinyDatasetMapper:
    """A dataset mapper that keeps images at their native size and never drops a tiny box silently.

    After augmentation, boxes are clipped to the image. A box that keeps less than ``min_visible`` of its area becomes
    an ignore region (counted as ``cut``), and so does a box with a side under ``min_gt_size`` (counted as ``small``),
    because a dropped box would be learned as background. A box outside the image is dropped and not counted. Images
    without boxes are kept.

    Augmentations get an ``AugInput`` with the additional fields ``classes`` (G,) int64 and ``ignore`` (G,) bool. They
    may add objects to ``boxes`` and these two.
    """

    def __init__(
        self,
        *,
        is_train: bool,
        augmentations: Sequence[T.Augmentation | T.Transform] = (),
        image_format: str = "RGB",
        ignore_regions: bool = True,
        min_gt_size: float = 1.0,
        min_visible: float = 0.5,
        cache_dir: str | os.PathLike[str] | None = None,
        cache_gb: float = 50.0,
        stretch: StretchLike = None,
    ) -> None:
        """Create a mapper.

        Args:
            is_train: return annotations as ``instances``, too.
            augmentations: Detectron2 augmentations; by default none.
            image_format: order of the model's input channels, ``RGB`` or ``BGR``.
            ignore_regions: return ignore regions in the ``gt_ignore`` field of the instances; False drops them, for
                Detectron2's own heads, which would learn them as objects.
            min_gt_size: shortest side in px after augmentation of a box that is learned.
            min_visible: share of the area that must be left after cropping, in [0, 1].
            cache_dir: folder of a :class:`~d2tiny.data.loading.images.DecodedCache`; None decodes each time.
            cache_gb: size limit of the cache in GB.
            stretch: values or percentiles that become black and white in images that are not 8-bit, see
                :func:`~d2tiny.data.loading.images.read_image`; None refuses these images.

        Raises:
            ValueError: unknown image format, or ``stretch`` is no pair of values or percentiles.
        """
        if image_format not in ("RGB", "BGR"):
            raise ValueError(f"image_format must be 'RGB' or 'BGR', got {image_format!r}.")
        self.is_train = is_train
        self.augmentations = T.AugmentationList(list(augmentations))
        self.image_format = image_format
        self.ignore_regions = ignore_regions
        self.min_gt_size = min_gt_size
        self.min_visible = min_visible
        self.stretch = make_stretch(stretch)
        self.cache = DecodedCache(cache_dir, cache_gb, stretch=self.stretch) if cache_dir else None

    def __call__(self, record: dict[str, Any]) -> dict[str, Any]:
        """Return the model input of one dataset dict.

        Args:
            record: Detectron2 dataset dict; it is not modified.

        Returns:
            ``image`` (3, H, W) uint8, the record's ``file_name, image_id, height, width``, and in training
            ``instances`` (``gt_boxes, gt_classes, gt_ignore``) and ``dropped`` (counts by reason).

        Raises:
            DatasetError: the image cannot be read; names the file.
        """
        augmented = self.load(record)
        self.augmentations(augmented)
        return self.finish(record, augmented)

    def load(self, record: dict[str, Any]) -> T.AugInput:
        """Return the image of a record and, in training, its objects, before augmentation."""
        augmented = T.AugInput(self._read(record["file_name"]))
        annotations = record.get("annotations", []) if self.is_train else []
        augmented.boxes = _boxes(annotations)
        augmented.classes = np.array([a["category_id"] for a in annotations], dtype=np.int64)
        augmented.ignore = np.array([bool(a.get("iscrowd", 0)) for a in annotations], dtype=bool)
        return augmented

    def finish(
        self, record: dict[str, Any], augmented: T.AugInput, dropped: Counter[str] | None = None
    ) -> dict[str, Any]:
        """Return the model input of an augmented image.

        Args:
            record: Detectron2 dataset dict of the image.
            augmented: image and objects; the objects are clipped in place.
            dropped: counts of ``cut`` and ``small`` boxes during augmentation, to which those found here are added.
        """
        result = {k: v for k, v in record.items() if k != "annotations"}
        result["image"] = torch.from_numpy(_planes(augmented.image))
        if self.is_train:
            counts = Counter(cut=0, small=0)
            counts.update(dropped or {})
            counts.update(self.clip(augmented))
            result["instances"], result["dropped"] = self._instances(augmented), dict(counts)
        return result

    def clip(self, augmented: T.AugInput) -> Counter[str]:
        """Clip boxes to the image, in place, and ignore those that became too small; return the counts by reason.

        Raises:
            DatasetError: an augmentation left different numbers of boxes, classes and ignore flags.
        """
        size = augmented.image.shape[:2]
        boxes = np.asarray(augmented.boxes, dtype=np.float64).reshape(-1, 4)
        classes, ignore = augmented.classes, augmented.ignore
        if not len(boxes) == len(classes) == len(ignore):
            raise DatasetError(
                f"Augmentations left {len(boxes)} boxes, {len(classes)} classes and {len(ignore)} ignore flags; one "
                "that adds or removes boxes must do so in all three fields."
            )
        clipped = np.stack([boxes[:, i].clip(0, size[1 - i % 2]) for i in range(4)], axis=1).reshape(-1, 4)
        full = (boxes[:, 2:] - boxes[:, :2]).prod(axis=1)
        sides = clipped[:, 2:] - clipped[:, :2]
        inside = (sides > 0).all(axis=1)
        # Visible shares of several crops in a row are multiplied; objects that an augmentation added start at 1.
        before = getattr(augmented, "visible", np.ones(0))
        visible = np.concatenate((before, np.ones(len(boxes) - len(before))))
        visible = visible * np.divide(sides.prod(axis=1), full, out=np.zeros(len(full)), where=full > 0)
        cut = inside & ~ignore & (visible < self.min_visible)
        small = inside & ~ignore & ~cut & (sides.min(axis=1, initial=np.inf) < self.min_gt_size)
        augmented.boxes, augmented.classes = clipped[inside], classes[inside]
        augmented.ignore, augmented.visible = (ignore | cut | small)[inside], visible[inside]
        return Counter(cut=int(cut.sum()), small=int(small.sum()))

    def _read(self, path: str) -> np.ndarray:
        if self.cache is None:
            return read_image(path, self.image_format, stretch=self.stretch)
        image = self.cache.read(path)
        return image if self.image_format == "RGB" else cv2.cvtColor(image, cv2.COLOR_RGB2BGR)

    def _instances(self, augmented: T.AugInput) -> Instances:
        keep = slice(None) if self.ignore_regions else ~augmented.ignore
        instances = Instances(augmented.image.shape[:2])
        instances.gt_boxes = Boxes(torch.from_numpy(augmented.boxes[keep].astype(np.float32)))
        instances.gt_classes = torch.from_numpy(augmented.classes[keep])
        if self.ignore_regions:
            instances.gt_ignore = torch.from_numpy(augmented.ignore)
        return instances


def _boxes(annotations: Sequence[dict[str, Any]]) -> np.ndarray:
    """Return the XYXY boxes (G, 4) float64 of annotations; corners are computed in float32, as in Detectron2."""
    if any(a["bbox_mode"] != BoxMode.XYWH_ABS for a in annotations):
        converted = [BoxMode.convert(a["bbox"], a["bbox_mode"], BoxMode.XYXY_ABS) for a in annotations]
        return np.array(converted, dtype=np.float64).reshape(-1, 4)
    boxes = np.array([a["bbox"] for a in annotations], dtype=np.float32).reshape(-1, 4)
    return xywh_to_xyxy(boxes).astype(np.float64)


def _planes(image: np.ndarray) -> np.ndarray:
    """Return an image (H, W, 3) as contiguous planes (3, H, W); several times faster than a transposed copy."""
    if image.dtype != np.uint8 or not image.size:  # OpenCV would not fill the planes
        return np.ascontiguousarray(image.transpose(2, 0, 1))
    flip = [axis for axis in (0, 1) if image.strides[axis] < 0]
    for axis in flip:
        image = np.flip(image, axis)  # undo the flip, because OpenCV does not support negative strides
    if flip:
        image = cv2.flip(image, {(0,): 0, (1,): 1, (0, 1): -1}[tuple(flip)])
    planes = np.empty((3, *image.shape[:2]), dtype=np.uint8)
    cv2.split(image, list(planes))
    return planes
