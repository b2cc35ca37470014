"""Copy-paste of tiny objects (after Kisantal et al., 2019, for boxes instead of masks)."""

from __future__ import annotations

import numpy as np
from detectron2.data import transforms as T

from d2tiny.data.transforms.rotate import QuarterTurn

__all__ = ["BoxCopyPaste"]


class BoxCopyPaste(T.Augmentation):
    """Paste small objects at other positions of the same image, with a margin of background that fades out.

    Objects that overlap others are not copied, and the margin ends before the next object. A copy is flipped and
    rotated by quarter turns at random, and pasted only where it, with its margin, overlaps neither an object nor an
    ignore region. Background of the same image fits better than that of another image.

    Copies are added to the fields ``boxes``, ``classes`` and ``ignore``, which
    :class:`~d2tiny.data.TinyDatasetMapper` provides.
    """

    def __init__(
        self,
        *,
        copies: int = 10,
        max_side: float = 32.0,
        margin: float = 0.4,
        tries: int = 20,
        prob: float = 0.5,
    ) -> None:
        """Create the augmentation.

        Args:
            copies: largest number of copies; the number is drawn uniformly from 1 to ``copies``.
            max_side: longest side in px of objects that are copied.
            margin: width of the margin, as a share of the object's longer side (at least 2 px).
            tries: number of random positions that are tried for each copy.
            prob: probability that the image gets copies, in [0, 1].

        Raises:
            ValueError: an argument outside its range.
        """
        super().__init__()
        if copies < 1 or max_side <= 0 or margin < 0 or tries < 1 or not 0 <= prob <= 1:
            raise ValueError("BoxCopyPaste: copies and tries start at 1, prob lies in [0, 1], sizes are positive.")
        self.copies, self.max_side, self.margin, self.tries, self.prob = copies, max_side, margin, tries, prob

    def __call__(self, aug_input: T.AugInput) -> T.Transform:
        """Paste copies into ``aug_input``; its image and boxes are replaced, not modified."""
        boxes, ignore = aug_input.boxes, aug_input.ignore
        sides = boxes[:, 2:] - boxes[:, :2]
        height, width = aug_input.image.shape[:2]
        # A crop may have cut boxes at the image border.
        inside = (boxes[:, :2] >= 0).all(axis=1) & (boxes[:, 2:] <= (width, height)).all(axis=1)
        fits = (sides.max(axis=1, initial=0) <= self.max_side) & (sides.min(axis=1) >= 1)
        small = np.flatnonzero(~ignore & inside & fits)
        if not len(small) or np.random.rand() >= self.prob:
            return T.NoOpTransform()
        source, image = aug_input.image, aug_input.image.copy()
        taken = boxes.copy()
        new_boxes, new_classes = [], []
        for index in np.random.choice(small, np.random.randint(1, self.copies + 1)):
            others = np.delete(boxes, index, axis=0)
            pasted = self._paste(source, image, boxes[index], others, taken)
            if pasted is not None:
                taken = np.concatenate((taken, pasted[None]))
                new_boxes.append(pasted)
                new_classes.append(aug_input.classes[index])
        if new_boxes:
            aug_input.image = image
            aug_input.boxes = np.concatenate((boxes, np.stack(new_boxes)))
            aug_input.classes = np.concatenate((aug_input.classes, np.array(new_classes, dtype=np.int64)))
            aug_input.ignore = np.concatenate((ignore, np.zeros(len(new_boxes), dtype=bool)))
        return T.NoOpTransform()

    def _paste(
        self, source: np.ndarray, image: np.ndarray, box: np.ndarray, others: np.ndarray, taken: np.ndarray
    ) -> np.ndarray | None:
        """Paste one copy into ``image``; return its box XYXY, or None if no free position was found."""
        height, width = image.shape[:2]
        margin = _clear_margin(box, others, max(2, round(self.margin * float((box[2:] - box[:2]).max()))))
        if margin < 0:  # part of the other object would be copied without a label
            return None
        x1, y1 = max(0, int(box[0]) - margin), max(0, int(box[1]) - margin)
        x2, y2 = min(width, int(np.ceil(box[2])) + margin), min(height, int(np.ceil(box[3])) + margin)
        patch = source[y1:y2, x1:x2]
        inner = box - (x1, y1, x1, y1)
        turns, mirror = int(np.random.randint(4)), bool(np.random.randint(2))
        patch, inner = _rotated(patch, inner, turns, mirror)
        h, w = patch.shape[:2]
        if h > height or w > width:
            return None
        weight = _fade(h, w, inner)
        for _ in range(self.tries):
            x, y = int(np.random.randint(width - w + 1)), int(np.random.randint(height - h + 1))
            apart = (taken[:, 0] >= x + w) | (taken[:, 2] <= x) | (taken[:, 1] >= y + h) | (taken[:, 3] <= y)
            if apart.all():
                target = image[y : y + h, x : x + w]
                target[:] = (target * (1 - weight) + patch * weight + 0.5).astype(image.dtype)
                return inner + np.array((x, y, x, y))
        return None


def _clear_margin(box: np.ndarray, others: np.ndarray, margin: int) -> int:
    """Return the widest margin in px, at most ``margin``, that overlaps no other box; -1 if the box itself does."""
    x1, y1, x2, y2 = np.floor(box[0]), np.floor(box[1]), np.ceil(box[2]), np.ceil(box[3])
    # distances along both axes, negative where the boxes overlap on it
    dx = np.maximum(others[:, 0] - x2, x1 - others[:, 2])
    dy = np.maximum(others[:, 1] - y2, y1 - others[:, 3])
    nearest = float(np.maximum(dx, dy).min(initial=np.inf))
    return -1 if nearest < 0 else int(min(margin, nearest))


def _rotated(patch: np.ndarray, box: np.ndarray, turns: int, mirror: bool) -> tuple[np.ndarray, np.ndarray]:
    """Return a patch and the box in it, flipped horizontally if ``mirror``, then rotated by quarter turns."""
    steps = T.TransformList([T.HFlipTransform(patch.shape[1])] if mirror else [])
    steps += QuarterTurn(turns, *patch.shape[:2])
    return steps.apply_image(patch), steps.apply_box(box[None])[0]


def _fade(height: int, width: int, box: np.ndarray) -> np.ndarray:
    """Return the blending weight (H, W, 1) of a patch: 1 on the object, falling linearly to 0 at the edges."""
    y, x = np.arange(height) + 0.5, np.arange(width) + 0.5
    ramps = []
    for positions, low, high, end in ((x, box[0], box[2], width), (y, box[1], box[3], height)):
        before = np.where(positions < low, positions / max(low, 1e-6), 1.0)
        after = np.where(positions > high, (end - positions) / max(end - high, 1e-6), 1.0)
        ramps.append(np.minimum(before, after))
    return (ramps[1][:, None] * ramps[0])[:, :, None]
