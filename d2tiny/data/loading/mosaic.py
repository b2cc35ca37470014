"""Training images made of several images: mosaic and mixup; and multi-scale training."""

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
_OBJECT_FIELDS = ("boxes", "classes", "ignore", "visible")  # of an AugInput after TinyDatasetMapper.clip
_STEP = 32  # px, step between the sizes of multi-scale training


class MosaicMapper(TinyDatasetMapper):
    """A dataset mapper with mosaic (four images around a random point), random affine map and mixup.

    Steps in order: ``source`` augmentations of each image, mosaic (Bochkovskiy et al., 2020), random affine map, mixup
    (Zhang et al., 2018), ``augmentations``, multi-scale. After the share ``close_share`` of the training, only
    ``augmentations`` and multi-scale are applied, as in the last epochs of the YOLO recipes. It can be used with every
    detector; :class:`~d2tiny.data.loading.loader.ResumableLoader` passes the other images and the iteration.

    Boxes that are cut at the borders of the mosaic or of the image, or become too small, are ignored and counted as in
    :class:`TinyDatasetMapper`. The number of objects is not limited.
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
        """Create a mapper.

        Args:
            size: side of the training image in px; the canvas of the mosaic is twice as large.
            max_iter: number of iterations of the training.
            mosaic_prob: probability of a mosaic, in [0, 1]; other images get ``augmentations`` only.
            mixup_prob: probability that a mosaic is blended with another one, in [0, 1].
            mixup_alpha: parameter α of the Beta(α, α) distribution of the blending weight.
            scale: see :class:`RandomAffine`.
            translate: see :class:`RandomAffine`.
            degrees: see :class:`RandomAffine`.
            shear: see :class:`RandomAffine`.
            min_object: see :class:`RandomAffine`.
            close_share: share of the training after which mosaic and mixup end, in [0, 1].
            multi_scale: largest change of ``size`` in multi-scale training, in steps of 32 px; 0 disables it.
            multi_scale_period: number of iterations between changes of the size.
            multi_scale_seed: random seed of the sizes.
            source: augmentations of each image before it becomes part of a mosaic, such as a crop of large images.
            **kwargs: arguments of :class:`TinyDatasetMapper`.

        Raises:
            ValueError: an argument outside its range.
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
        """Raise an error, because a mosaic needs several records; use :meth:`draw`.

        Raises:
            TypeError: always.
        """
        raise TypeError(
            "MosaicMapper needs other images: use it in build_train_loader, or draw(records, index, iteration)."
        )

    def draw(self, records: Sequence[Record], index: int, iteration: int) -> Record:
        """Return the training input made of ``records[index]`` and other records."""
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
        """Return a mosaic: four images that meet at a point of the canvas, warped by the random affine map."""
        size = self.size
        canvas = np.full((2 * size, 2 * size, 3), FILL, dtype=np.uint8)
        centre = np.random.randint(size // 2, size + size // 2 + 1, 2)
        chosen = [index, *np.random.randint(len(records), size=3).tolist()]
        parts = []
        for corner, which in enumerate(chosen):
            part = self.load(records[which])
            self.source(part)
            dropped.update(self.clip(part))  # boxes outside a crop must not land on the other images
            parts.append(_paste(canvas, part, centre, right=corner % 2 == 1, lower=corner >= 2))
        mosaic = T.AugInput(canvas)
        for name in _OBJECT_FIELDS:
            setattr(mosaic, name, np.concatenate([getattr(part, name) for part in parts]))
        dropped.update(self.clip(mosaic))
        T.AugmentationList([self.affine])(mosaic)
        dropped.update(self.clip(mosaic))
        return mosaic

    def _rescale(self, image: T.AugInput, iteration: int) -> None:
        """Resize the image to the current size of multi-scale training."""
        steps = _steps(self.multi_scale_seed, iteration // self.period, self.multi_scale)
        if not steps:
            return
        factor = (self.size + steps * _STEP) / self.size
        height, width = (max(1, round(side * factor)) for side in image.image.shape[:2])
        image.transform(T.ResizeTransform(*image.image.shape[:2], height, width))


@functools.lru_cache(maxsize=64)
def _steps(seed: int, period: int, largest: int) -> int:
    """Return the number of steps by which the size of a period differs, in [-largest, largest]."""
    return int(np.random.default_rng((seed, period)).integers(-largest, largest + 1))


def _paste(canvas: np.ndarray, part: T.AugInput, centre: np.ndarray, *, right: bool, lower: bool) -> T.AugInput:
    """Paste an image on the canvas so that one of its corners lies at ``centre``; return it with shifted boxes."""
    height, width = part.image.shape[:2]
    x = int(centre[0]) - (0 if right else width)
    y = int(centre[1]) - (0 if lower else height)
    x1, y1, x2, y2 = max(x, 0), max(y, 0), min(x + width, canvas.shape[1]), min(y + height, canvas.shape[0])
    canvas[y1:y2, x1:x2] = part.image[y1 - y : y2 - y, x1 - x : x2 - x]
    part.boxes = part.boxes + np.array((x, y, x, y))
    return part


def _blend(image: T.AugInput, other: T.AugInput, share: float) -> None:
    """Blend ``other`` into ``image`` (of the same size) with weight 1 - ``share``; the objects of both are learned."""
    mixed = image.image.astype(np.float32) * share + other.image.astype(np.float32) * (1 - share)
    image.image = (mixed + 0.5).astype(np.uint8)
    for name in _OBJECT_FIELDS:
        setattr(image, name, np.concatenate((getattr(image, name), getattr(other, name))))
