"""Training images made of several: mosaic, mixup, and one size for a whole batch."""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
from detectron2.data import transforms as T

from d2tiny.data.loading.mapper import TinyDatasetMapper
from d2tiny.data.transforms.affine import FILL, RandomAffine

__all__ = ["MosaicMapper"]

Record = dict[str, Any]
_STEP = 32  # px between the sizes of multi-scale training


class MosaicMapper(TinyDatasetMapper):
    """Four images around a random point, cut out by a random affine map; perhaps blended with another such.

    In order: ``source`` augmentations on each image, mosaic (Bochkovskiy et al., 2020), ``affine``, mixup (Zhang et
    al., 2018), ``augmentations``, multi-scale. From ``close_share`` of the training on images are plain: only
    ``augmentations`` and multi-scale are left, as the YOLO recipes end. Works with every detector; the training
    loader hands over what it needs (:class:`~d2tiny.data.loading.loader.StreamMapper`), and resumes exactly.

    Boxes cut by the borders of the mosaic or of the image, or made too small, become ignore regions and are counted, as
    in :class:`TinyDatasetMapper`; no number of objects is too large.
    """

    def __init__(
        self,
        *,
        size: int,
        max_iter: int,
        mosaic_prob: float = 1.0,
        mixup_prob: float = 0.0,
        mixup_alpha: float = 32.0,
        scale: Sequence[float] = (0.5, 1.5),
        translate: float = 0.1,
        degrees: float = 0.0,
        shear: float = 0.0,
        min_object: float = 0.0,
        close_share: float = 1.0,
        multi_scale: int = 0,
        multi_scale_period: int = 10,
        multi_scale_seed: int = 0,
        source: Sequence[T.Augmentation | T.Transform] = (),
        **kwargs: Any,
    ) -> None:
        """Set the recipe.

        Args:
            size: side of the training image, px; the mosaic's canvas is twice as large.
            max_iter: iterations of the training.
            mosaic_prob: how often an image is a mosaic, in [0, 1]; else only ``augmentations`` change it.
            mixup_prob: how often a mosaic is blended with another, in [0, 1].
            mixup_alpha: α of the Beta distribution of the share.
            scale: see :class:`RandomAffine`.
            translate: likewise.
            degrees: likewise.
            shear: likewise.
            min_object: likewise.
            close_share: part of the training after which images are plain, in [0, 1].
            multi_scale: a batch is scaled so that ``size`` changes by up to so many steps of 32 px; 0 never.
            multi_scale_period: iterations for which that size stays.
            multi_scale_seed: of the sizes.
            source: augmentations of each image before it becomes part of a mosaic (a crop, for large images).
            **kwargs: of :class:`TinyDatasetMapper`.

        Raises:
            ValueError: a setting outside its range.
        """
        super().__init__(**kwargs)
        if not self.is_train:
            raise ValueError("MosaicMapper: is_train=False; test images are never mosaics, use TinyDatasetMapper.")
        shares = {"mosaic_prob": mosaic_prob, "mixup_prob": mixup_prob, "close_share": close_share}
        if wrong := [f"{k}={v}" for k, v in shares.items() if not 0 <= v <= 1]:
            raise ValueError(f"MosaicMapper: {', '.join(wrong)} must be in [0, 1].")
        if size < _STEP or max_iter < 1 or mixup_alpha <= 0 or multi_scale_period < 1:
            raise ValueError(
                f"MosaicMapper: need size >= {_STEP}, max_iter, multi_scale_period >= 1 and mixup_alpha > 0, got "
                f"{size}, {max_iter}, {multi_scale_period}, {mixup_alpha}."
            )
        if multi_scale < 0 or size - multi_scale * _STEP < _STEP:
            raise ValueError(f"MosaicMapper: multi_scale={multi_scale} steps of {_STEP} px leave nothing of {size} px.")
        self.size, self.max_iter, self.close_share = size, max_iter, close_share
        self.mosaic_prob, self.mixup_prob, self.mixup_alpha = mosaic_prob, mixup_prob, mixup_alpha
        self.affine = RandomAffine(
            (size, size), scale=scale, translate=translate, degrees=degrees, shear=shear, min_object=min_object
        )
        self.multi_scale, self.period, self.multi_scale_seed = multi_scale, multi_scale_period, multi_scale_seed
        self.source = T.AugmentationList(list(source))

    def __call__(self, record: Record) -> Record:
        """Refuse: one record makes no mosaic.

        Raises:
            TypeError: always.
        """
        raise TypeError(
            "MosaicMapper needs other images: use it in build_train_loader, or draw(records, index, iteration)."
        )

    def draw(self, records: Sequence[Record], index: int, iteration: int) -> Record:
        """The input made of ``records[index]`` and others."""
        dropped: Counter[str] = Counter()
        if iteration < self.close_share * self.max_iter and np.random.rand() < self.mosaic_prob:
            image = self._mosaic(records, index, dropped)
            if np.random.rand() < self.mixup_prob:
                other = self._mosaic(records, int(np.random.randint(len(records))), dropped)
                _blend(image, other, float(np.random.beta(self.mixup_alpha, self.mixup_alpha)))
        else:
            image = self.load(records[index])
        self.augmentations(image)
        self._rescale(image, iteration)
        return self.finish(records[index], image, dropped)

    def _mosaic(self, records: Sequence[Record], index: int, dropped: Counter[str]) -> T.AugInput:
        """Four images on a canvas of twice the size, each with a corner at its centre, through the affine map."""
        size = self.size
        canvas = np.full((2 * size, 2 * size, 3), FILL, dtype=np.uint8)
        centre = np.random.randint(size // 2, size + size // 2 + 1, 2)
        chosen = [index, *np.random.randint(len(records), size=3).tolist()]
        parts = []
        for corner, which in enumerate(chosen):
            part = self.load(records[which])
            self.source(part)
            dropped.update(self.clip(part))  # what a crop left outside must not land on the neighbours
            parts.append(_placed(canvas, part, centre, right=corner % 2 == 1, lower=corner >= 2))
        whole = T.AugInput(canvas)
        whole.boxes = np.concatenate([p.boxes for p in parts])
        whole.classes = np.concatenate([p.classes for p in parts])
        whole.ignore = np.concatenate([p.ignore for p in parts])
        whole.visible = np.concatenate([p.visible for p in parts])
        dropped.update(self.clip(whole))
        T.AugmentationList([self.affine])(whole)
        dropped.update(self.clip(whole))
        return whole

    def _rescale(self, image: T.AugInput, iteration: int) -> None:
        """Bring the image to the size of its batch."""
        steps = _steps(self.multi_scale_seed, iteration // self.period, self.multi_scale)
        if not steps:
            return
        factor = (self.size + steps * _STEP) / self.size
        height, width = (max(1, round(side * factor)) for side in image.image.shape[:2])
        image.transform(T.ResizeTransform(*image.image.shape[:2], height, width))


@functools.lru_cache(maxsize=64)
def _steps(seed: int, period: int, largest: int) -> int:
    """Steps by which the size of a period differs."""
    return int(np.random.default_rng((seed, period)).integers(-largest, largest + 1))


def _placed(canvas: np.ndarray, part: T.AugInput, centre: np.ndarray, *, right: bool, lower: bool) -> T.AugInput:
    """Paste an image so that one of its corners lies at the centre, and shift its boxes."""
    height, width = part.image.shape[:2]
    x = int(centre[0]) - (0 if right else width)
    y = int(centre[1]) - (0 if lower else height)
    x1, y1, x2, y2 = max(x, 0), max(y, 0), min(x + width, canvas.shape[1]), min(y + height, canvas.shape[0])
    canvas[y1:y2, x1:x2] = part.image[y1 - y : y2 - y, x1 - x : x2 - x]
    part.boxes = part.boxes + np.array((x, y, x, y))
    return part


def _blend(image: T.AugInput, other: T.AugInput, share: float) -> None:
    """Mix two images of one size, in place; the objects of both are learned."""
    mixed = image.image.astype(np.float32) * share + other.image.astype(np.float32) * (1 - share)
    image.image = (mixed + 0.5).astype(np.uint8)
    image.boxes = np.concatenate((image.boxes, other.boxes))
    image.classes = np.concatenate((image.classes, other.classes))
    image.ignore = np.concatenate((image.ignore, other.ignore))
    image.visible = np.concatenate((image.visible, other.visible))
