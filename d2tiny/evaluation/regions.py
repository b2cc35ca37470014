"""VisDrone's ignored regions: what lies half inside them does not take part."""

from __future__ import annotations

import numpy as np

from d2tiny.data.ground_truth import GroundTruth

__all__ = ["outside_regions"]


def outside_regions(truth: GroundTruth, image: np.ndarray, boxes: np.ndarray) -> np.ndarray:
    """Find the boxes that lie less than half inside the ignored regions of their image.

    As VisDrone's toolkit counts pixels (dropObjectsInIgr): a region covers the pixels from its corner to corner + size,
    both included; boxes are rounded; the share is taken of the rounded size, also of what lies outside the image.

    Args:
        truth: holds the regions.
        image: (N,) index of each box's image.
        boxes: (N, 4) XYWH.

    Returns:
        (N,) bool, True for those that stay.
    """
    keep = np.ones(len(image), dtype=bool)
    drops = truth.region_drops
    for i in np.unique(truth.region_image[drops]):
        here = np.flatnonzero(image == i)
        inside = _pixels_inside(truth.regions[drops & (truth.region_image == i)], boxes[here])
        keep[here] = inside < 0.5
    return keep


def _pixels_inside(regions: np.ndarray, boxes: np.ndarray) -> np.ndarray:
    """Share (N,) of each box that is covered by the union of the regions."""
    # No larger canvas is needed than the regions' own: nothing beyond it is covered.
    first = np.maximum(1, np.trunc(regions[:, :2])).astype(np.int64)
    last = np.trunc(np.maximum(1, regions[:, :2]) + np.maximum(1, regions[:, 2:])).astype(np.int64)
    width, height = last.max(axis=0)
    covered = np.zeros((height + 1, width + 1), dtype=np.int64)
    for (x1, y1), (x2, y2) in zip(first, last, strict=True):
        covered[y1 : y2 + 1, x1 : x2 + 1] = 1
    integral = covered.cumsum(axis=0).cumsum(axis=1)  # row and column 0 are empty: pixels count from 1
    rounded = np.maximum(1, np.floor(boxes + 0.5)).astype(np.int64)
    x1, y1 = rounded[:, 0].clip(max=width), rounded[:, 1].clip(max=height)
    x2 = (rounded[:, 0] + rounded[:, 2]).clip(max=width)
    y2 = (rounded[:, 1] + rounded[:, 3]).clip(max=height)
    inside = integral[y1, x1] + integral[y2, x2] - integral[y2, x1] - integral[y1, x2]
    return inside / (rounded[:, 2] * rounded[:, 3])
