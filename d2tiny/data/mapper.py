"""From a dataset dict to a training or test input."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from detectron2.data import detection_utils
from detectron2.data import transforms as T
from detectron2.structures import Boxes, BoxMode, Instances

from d2tiny.utils.errors import DatasetError

__all__ = ["TinyDatasetMapper"]


class TinyDatasetMapper:
    """Reads and augments an image at its native size, and never loses a tiny box silently.

    What augmentation does to boxes: they are clipped to the image; one that keeps less than ``min_visible`` of its
    area becomes an ignore region (counted as ``cut``), one that leaves the image is not part of it any more (not
    counted), one with a side under ``min_gt_size`` is dropped (counted as ``small``). Images without boxes are kept.
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
    ) -> None:
        """Set what is done.

        Args:
            is_train: hand on annotations.
            augmentations: Detectron2 augmentations; none keeps the native size.
            image_format: ``RGB`` or ``BGR``, as the model wants.
            ignore_regions: hand ignore regions on in the ``gt_ignore`` field; False drops them (for Detectron2's own
                heads, which would learn them as objects).
            min_gt_size: shortest side in px after augmentation of a box that is learned.
            min_visible: share of the area that must be left after cropping, in [0, 1].

        Raises:
            ValueError: unknown image format.
        """
        if image_format not in ("RGB", "BGR"):
            raise ValueError(f"image_format must be 'RGB' or 'BGR', got {image_format!r}.")
        self.is_train = is_train
        self.augmentations = T.AugmentationList(list(augmentations))
        self.image_format = image_format
        self.ignore_regions = ignore_regions
        self.min_gt_size = min_gt_size
        self.min_visible = min_visible

    def __call__(self, record: dict[str, Any]) -> dict[str, Any]:
        """Return the model input of one dataset dict; the dict is not modified.

        Returns:
            ``image`` (3, H, W) uint8, the record's ``file_name, image_id, height, width``, and in training
            ``instances`` (``gt_boxes, gt_classes, gt_ignore``) and ``dropped`` (counts by reason).

        Raises:
            DatasetError: the image cannot be read; names the file.
        """
        result = {k: copy.copy(v) for k, v in record.items() if k != "annotations"}
        try:
            image = detection_utils.read_image(record["file_name"], format=self.image_format)
        except Exception as err:
            raise DatasetError(f"{record['file_name']}: cannot read this image ({err}).") from err
        annotations = record.get("annotations", []) if self.is_train else []
        boxes = np.array(
            [BoxMode.convert(a["bbox"], a["bbox_mode"], BoxMode.XYXY_ABS) for a in annotations], dtype=np.float64
        ).reshape(-1, 4)
        augmented = T.AugInput(image, boxes=boxes)
        # For augmentations that look at objects; flags need no transformation, they belong to the boxes by position.
        augmented.ignore = np.array([bool(a.get("iscrowd", 0)) for a in annotations], dtype=bool)
        self.augmentations(augmented)
        # copy: flips give views with negative strides, which torch cannot take
        result["image"] = torch.from_numpy(np.ascontiguousarray(augmented.image.transpose(2, 0, 1)))
        if self.is_train:
            size = augmented.image.shape[:2]
            result["instances"], result["dropped"] = self._instances(
                annotations, np.asarray(augmented.boxes).reshape(-1, 4), size
            )
        return result

    def _instances(
        self, annotations: list[dict[str, Any]], boxes: np.ndarray, size: tuple[int, int]
    ) -> tuple[Instances, dict[str, int]]:
        classes = np.array([a["category_id"] for a in annotations], dtype=np.int64)
        ignore = np.array([bool(a.get("iscrowd", 0)) for a in annotations], dtype=bool)
        clipped = np.stack([boxes[:, i].clip(0, size[1 - i % 2]) for i in range(4)], axis=1).reshape(-1, 4)
        full = (boxes[:, 2:] - boxes[:, :2]).prod(axis=1)
        sides = clipped[:, 2:] - clipped[:, :2]
        inside = (sides > 0).all(axis=1)
        cut = inside & ~ignore & (sides.prod(axis=1) < self.min_visible * full)
        small = inside & ~ignore & ~cut & (sides.min(axis=1, initial=np.inf) < self.min_gt_size)
        ignore = ignore | cut
        keep = inside & ~small
        if not self.ignore_regions:
            keep &= ~ignore
        instances = Instances(size)
        instances.gt_boxes = Boxes(torch.from_numpy(clipped[keep].astype(np.float32)))
        instances.gt_classes = torch.from_numpy(classes[keep])
        if self.ignore_regions:
            instances.gt_ignore = torch.from_numpy(ignore[keep])
        return instances, {"cut": int(cut.sum()), "small": int(small.sum())}
