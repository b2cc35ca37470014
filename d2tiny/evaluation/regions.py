"""Ignored regions of VisDrone: boxes that lie at least half inside them are not evaluated."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np

from d2tiny.data.coco.arrays import GroundTruth
from d2tiny.evaluation import kernels

__all__ = ["outside_regions"]

_MAX_COORDINATE = 1 << 24  # px; rounded coordinates and areas stay exact integers


def outside_regions(truth: GroundTruth, groups: Sequence[tuple[np.ndarray, np.ndarray]]) -> list[np.ndarray]:
    """Find the boxes that lie less than half inside the ignored regions of their image.

    Pixels are counted as in VisDrone's toolkit (dropObjectsInIgr): a region covers the pixels from corner to
    corner + size, both included; boxes are rounded; the fraction refers to the rounded box, including the part that
    lies outside the image.

    Args:
        truth: ground truth with the regions.
        groups: pairs of image indices (N,) and boxes (N, 4) XYWH in px.

    Returns:
        For each group a (N,) bool mask of the boxes to keep.
    """
    images = len(truth.image_ids)
    keep = [np.ones(len(image), dtype=bool) for image, _ in groups]
    sorted_groups = [kernels.group(image, images) for image, _ in groups]
    drops = np.flatnonzero(truth.region_drops)
    order, starts = kernels.group(truth.region_image[drops], images)
    for i in np.unique(truth.region_image[drops]):
        regions = truth.regions[drops[order[starts[i] : starts[i + 1]]]]
        covered = _covered_pixels(regions, truth.sizes[i])
        for (_, boxes), (by_image, bounds), mask in zip(groups, sorted_groups, keep, strict=True):
            in_image = by_image[bounds[i] : bounds[i + 1]]
            mask[in_image] = _covered_fraction(covered, boxes[in_image]) < 0.5
    return keep


def _covered_pixels(regions: np.ndarray, size: np.ndarray) -> np.ndarray:
    """Return the integral image of the union of the regions: entry (y, x) counts the covered pixels up to (y, x)."""
    first = np.maximum(1, np.trunc(regions[:, :2]))
    last = np.trunc(np.maximum(1, regions[:, :2]) + np.maximum(1, regions[:, 2:]))
    if size.all():
        last = np.minimum(last, size)
    # The canvas ends with the last region, because nothing beyond it is covered.
    width, height = last.max(axis=0).clip(1, _MAX_COORDINATE).astype(int)
    canvas = np.zeros((height, width), dtype=np.uint8)
    for (x1, y1), (x2, y2) in zip(first.astype(int), last.astype(int), strict=True):
        canvas[y1 - 1 : y2, x1 - 1 : x2] = 1
    return cv2.integral(canvas)


def _covered_fraction(covered: np.ndarray, boxes: np.ndarray) -> np.ndarray:
    """Return the covered fraction (N,) of each box."""
    height, width = np.array(covered.shape) - 1
    rounded = np.floor(boxes.clip(-_MAX_COORDINATE, _MAX_COORDINATE) + 0.5).clip(1).astype(np.int64)
    x1, y1 = rounded[:, 0].clip(max=width), rounded[:, 1].clip(max=height)
    x2 = (rounded[:, 0] + rounded[:, 2]).clip(max=width)
    y2 = (rounded[:, 1] + rounded[:, 3]).clip(max=height)
    inside = covered[y1, x1] + covered[y2, x2] - covered[y2, x1] - covered[y1, x2]
    return inside / (rounded[:, 2] * rounded[:, 3])
