"""Whether an exported model finds what the model finds."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from d2tiny.runtime.detections import ArrayDetections
from d2tiny.utils.errors import ConfigError

__all__ = ["CHANGED_LIMIT", "LIMITS", "Difference", "Verification", "compare", "verify"]

# Differences of a side in px and of a score within which two detections are the same one. Those of float32 are the
# condition of an export; lower precisions are judged by their AP, and these limits only tell how alike they are.
LIMITS = {"fp32": (0.05, 1e-3), "bf16": (1.0, 0.05), "int8": (2.0, 0.1)}
# Share of detections without a partner that rounding explains: where an IoU or a score lies at a threshold to the last
# digit, a detection comes or goes.
CHANGED_LIMIT = 0.005

Finder = Callable[[np.ndarray], ArrayDetections]


@dataclass
class Difference:
    """Differences of detections, largest over all images.

    Attributes:
        boxes: of a side, px.
        scores: of a score.
        detections: number that the model has.
        changed: those of either side without a partner of the same class within the limits.
    """

    boxes: float = 0.0
    scores: float = 0.0
    detections: int = 0
    changed: int = 0

    def add(self, other: Difference) -> None:
        """Take in those of another image."""
        self.boxes, self.scores = max(self.boxes, other.boxes), max(self.scores, other.scores)
        self.detections, self.changed = self.detections + other.detections, self.changed + other.changed


@dataclass
class Verification:
    """What was compared, and how it came out.

    Attributes:
        images: number of images.
        difference: largest differences.
        sizes: (height, width) of the images in px.
        precision: key of :data:`LIMITS`.
    """

    precision: str = "fp32"
    images: int = 0
    difference: Difference = field(default_factory=Difference)
    sizes: list[tuple[int, int]] = field(default_factory=list)

    @property
    def exact(self) -> bool:
        """Whether all but what rounding explains is within the limits."""
        d = self.difference
        return d.changed <= CHANGED_LIMIT * max(d.detections, 1)

    def __str__(self) -> str:
        d, (box, score) = self.difference, LIMITS[self.precision]
        return (
            f"{self.images} images, {d.detections} detections: boxes differ by at most {d.boxes:.2g} px, scores by "
            f"{d.scores:.2g}; {d.changed} have no partner within {box} px and {score}"
        )


def compare(model: ArrayDetections, exported: ArrayDetections, precision: str = "fp32") -> Difference:
    """Pair detections of one class, the nearest ones first, and return their largest differences.

    Args:
        model: what the model finds in an image.
        exported: what its exported form finds.
        precision: key of :data:`LIMITS`, within which two are partners.
    """
    (box_limit, score_limit), partners = LIMITS[precision], 0
    result = Difference(detections=len(model.scores))
    for label in np.union1d(model.classes, exported.classes):
        a, b = (x.take(np.flatnonzero(x.classes == label)) for x in (model, exported))
        if not len(a.scores) or not len(b.scores):
            continue
        boxes = np.abs(a.boxes[:, None] - b.boxes).max(axis=2)
        scores = np.abs(a.scores[:, None] - b.scores)
        rows, columns = np.nonzero((boxes <= box_limit) & (scores <= score_limit))
        used_a, used_b = np.zeros(len(a.scores), bool), np.zeros(len(b.scores), bool)
        for place in np.argsort(boxes[rows, columns] + scores[rows, columns], kind="stable"):
            i, j = rows[place], columns[place]
            if not used_a[i] and not used_b[j]:
                used_a[i] = used_b[j] = True
                result.boxes = max(result.boxes, float(boxes[i, j]))
                result.scores = max(result.scores, float(scores[i, j]))
                partners += 1
    result.changed = len(model.scores) + len(exported.scores) - 2 * partners
    return result


def verify(model: Finder, exported: Finder, images: Iterable[np.ndarray], precision: str = "fp32") -> Verification:
    """Run both on images (H, W, 3) uint8 BGR of any size; ``precision`` is a key of :data:`LIMITS`.

    Raises:
        ConfigError: no image.
    """
    result = Verification(precision)
    for image in images:
        result.images += 1
        result.sizes.append((image.shape[0], image.shape[1]))
        result.difference.add(compare(model(image), exported(image), precision))
    if not result.images:
        raise ConfigError("--verify: there are no images.")
    return result


def image_files(folder: Path, most: int | None = None) -> list[Path]:
    """Return the images of a folder, in order; with ``most`` that many, spread evenly.

    Raises:
        ConfigError: no such folder, or none in it.
    """
    from d2tiny.inference.sources import collect_scenes

    if not folder.is_dir():
        raise ConfigError(f"{folder}: no such folder of images.")
    files = [Path(path) for path in collect_scenes([str(folder)])]
    if not files:
        raise ConfigError(f"{folder}: no images.")
    if most is None or len(files) <= most:
        return files
    return [files[i] for i in np.linspace(0, len(files) - 1, most).round().astype(int)]


def drawn_images(sizes: Sequence[tuple[int, int]] = ((320, 320), (250, 403), (544, 390))) -> list[np.ndarray]:
    """Return drawn scenes (H, W, 3) uint8 BGR, also of sides that no stride divides."""
    from d2tiny.synthetic import render_scene

    return [
        np.ascontiguousarray(render_scene(seed, height=height, width=width).image[:, :, ::-1])
        for seed, (height, width) in enumerate(sizes)
    ]
