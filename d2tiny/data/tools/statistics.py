"""Statistics of a dataset: sizes, classes and density of its objects, as numbers and as an HTML page."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np

from d2tiny.data.coco.arrays import GroundTruth
from d2tiny.data.coco.boxes import fitting_areas, xywh_to_xyxy
from d2tiny.data.coco.source import relative_name
from d2tiny.data.loading.stretch import StretchLike
from d2tiny.utils.errors import DatasetError

if TYPE_CHECKING:  # matplotlib and OpenCV are slow to import; the functions that draw import them
    from matplotlib.figure import Figure

__all__ = ["CoverageLike", "crowded_images", "size_table", "summary", "write_statistics"]

logger = logging.getLogger(__name__)

_TILES = 24
_SIDE = 800  # px, longer side of the pictures: larger ones would make the page slow to open
Areas = Mapping[str, tuple[float, float]]


class CoverageLike(Protocol):
    """Coverage of the objects by a config's anchors (see :class:`d2tiny.analysis.coverage.Coverage`)."""

    @property
    def name(self) -> str:
        """Name of the config."""

    @property
    def strides(self) -> tuple[int, ...]:
        """Strides of the feature levels in px."""

    @property
    def by_level(self) -> tuple[int, ...]:
        """Number of objects with a positive anchor on each level."""

    @property
    def unserved(self) -> np.ndarray:
        """Objects without any positive anchor, (G,) bool, image by image."""


def _label(low: float, high: float) -> str:
    return f"{low**0.5:g}-{high**0.5:g} px" if high < 1e9 else f"over {low**0.5:g} px"


def _bins(areas: Areas, values: np.ndarray) -> np.ndarray:
    """Return the index of the bin of each area, -1 outside all bins; an area on a border goes to the lower bin."""
    result = np.full(len(values), -1)
    for i, (low, high) in enumerate(areas.values()):
        result[(result < 0) & (values >= low) & (values <= high)] = i
    return result


def _areas(truth: GroundTruth) -> np.ndarray:
    """Return the area of each object in px², (G,): that of the box where the file's cannot be."""
    return fitting_areas(truth.area, truth.boxes).clip(min=0)


def size_table(truth: GroundTruth, areas: Areas) -> np.ndarray:
    """Count the objects of each class and area bin, without ignored ones.

    Args:
        truth: the objects.
        areas: bins in px², label → (low, high).

    Returns:
        (K, bins + 1) int64; the last column holds all objects of the class.
    """
    use = ~truth.ignore
    bins, category = _bins(areas, _areas(truth)[use]), truth.category[use]
    table = np.zeros((len(truth.classes), len(areas) + 1), dtype=np.int64)
    np.add.at(table, (category[bins >= 0], bins[bins >= 0]), 1)
    table[:, -1] = np.bincount(category, minlength=len(truth.classes))
    return table


def summary(truth: GroundTruth) -> dict[str, str]:
    """Return the main numbers of a dataset as texts, label → value."""
    use = ~truth.ignore
    sides = np.sqrt(_areas(truth)[use])
    counts = np.bincount(truth.image[use], minlength=len(truth.image_ids))
    some = len(sides) > 0
    return {
        "images": f"{len(truth.image_ids):,}",
        "objects": f"{int(use.sum()):,}",
        "classes": str(len(truth.classes)),
        "ignored": f"{int(truth.ignore.sum()) + len(truth.regions):,}",
        "median size": f"{np.median(sides):.1f} px" if some else "–",
        "under 16 px": f"{(sides < 16).mean() * 100:.0f} %" if some else "–",
        "objects per image": f"{counts.mean():.1f}" if len(counts) else "–",
        "most in one image": f"{int(counts.max(initial=0)):,}",
    }


def crowded_images(truth: GroundTruth, number: int = _TILES) -> np.ndarray:
    """Return the indices of the images with the most objects, by falling count; images without objects are left out."""
    counts = np.bincount(truth.image[~truth.ignore], minlength=len(truth.image_ids))
    order = np.argsort(-counts, kind="stable")[:number]
    return order[counts[order] > 0]


def _histogram(values: np.ndarray, edges: np.ndarray, label: str, color: str) -> Figure:
    from d2tiny.visualization.html_report import new_figure

    figure, axes = new_figure()
    axes.hist(values, bins=edges, color=color, edgecolor="white", linewidth=0.4)
    axes.set_xlabel(label, fontsize=9)
    axes.set_ylabel("number", fontsize=9)
    axes.set_xlim(edges[0], edges[-1])
    return figure


def _plots(truth: GroundTruth, areas: Areas) -> list[tuple[Figure, str]]:
    from d2tiny.visualization.html_report import COLORS

    use = ~truth.ignore
    sides = np.sqrt(_areas(truth)[use])
    counts = np.bincount(truth.image[use], minlength=len(truth.image_ids))
    largest = float(np.percentile(sides, 99.5)) if len(sides) else 32.0
    size = _histogram(sides, np.linspace(0, max(32.0, largest), 65), "square root of the area, px", COLORS[0])
    for low, _ in list(areas.values())[1:]:
        size.axes[0].axvline(low**0.5, color="#d55e00", linewidth=1, linestyle="--")
    most = max(10, counts.max(initial=0) + 1)
    density = _histogram(counts, np.linspace(0, most, 51), "objects in an image", COLORS[2])
    ratio = truth.boxes[use, 2] / np.maximum(truth.boxes[use, 3], 1e-9)
    shape = _histogram(np.log2(ratio.clip(1 / 8, 8)), np.linspace(-3, 3, 61), "log2 of width / height", COLORS[3])
    return [
        (size, "Sizes; dashed: the borders of the area bins"),
        (density, "Density"),
        (shape, "Shape: 0 is square, 1 twice as wide as high"),
    ]


def _coverage_rows(
    coverages: Sequence[CoverageLike], strides: Sequence[int], truth: GroundTruth, areas: Areas
) -> list[list[object]]:
    """Return a row for each config: percent of objects with a positive on each level, and without any, by area bin."""
    use = np.flatnonzero(~truth.ignore)
    use = use[np.argsort(truth.image[use], kind="stable")]  # the order of GroundTruth.boxes_by_image
    bins = _bins(areas, _areas(truth)[use])
    total = max(1, len(use))
    rows: list[list[object]] = []
    for coverage in coverages:
        by_bin = [
            float(coverage.unserved[bins == i].mean() * 100) if (bins == i).any() else float("nan")
            for i in range(len(areas))
        ]
        by_stride = dict(zip(coverage.strides, coverage.by_level, strict=True))
        levels = [by_stride[s] / total * 100 if s in by_stride else float("nan") for s in strides]
        rows.append([coverage.name, *levels, float(coverage.unserved.sum()) / total * 100, *by_bin])
    return rows


def _pictures(truth: GroundTruth, images: Path, stretch: StretchLike) -> list[tuple[np.ndarray, str]]:
    """Return the most crowded images with their boxes, and a caption for each; unreadable images are left out."""
    import cv2

    from d2tiny.data.loading.raster import read_reduced
    from d2tiny.visualization import Boxes2D, draw_boxes

    result = []
    for index in crowded_images(truth).tolist():
        name = relative_name(truth.file_names[index])
        if name is None:
            continue
        try:
            pixels, factor = read_reduced(images / name, _SIDE, stretch=stretch)
        except (DatasetError, ImportError) as err:
            logger.warning("%s: no picture (%s)", name, err)
            continue
        here = (truth.image == index) & ~truth.ignore
        # Boxes may lie far outside of their image, where no canvas has room.
        boxes = (xywh_to_xyxy(truth.boxes[here]) / factor).clip(-_SIDE, max(pixels.shape) + _SIDE)
        scale = max(1, round(_SIDE / max(pixels.shape[:2])))
        drawn = draw_boxes(pixels, Boxes2D(boxes, truth.category[here]), truth.classes, scale=scale)
        smaller = _SIDE / max(drawn.shape[:2])
        if smaller < 1:
            drawn = cv2.resize(drawn, None, fx=smaller, fy=smaller, interpolation=cv2.INTER_AREA)
        result.append((drawn, f"{name}: {int(here.sum())} objects"))
    return result


def write_statistics(
    truth: GroundTruth,
    areas: Areas,
    output: Path,
    *,
    images: Path | None = None,
    coverages: Sequence[CoverageLike] = (),
    sample: GroundTruth | None = None,
    title: str = "Dataset",
    stretch: StretchLike = None,
) -> None:
    """Write ``index.html`` into a folder.

    Args:
        truth: the objects.
        areas: bins in px², label → (low, high).
        output: folder.
        images: folder of the images; without it the page has no pictures.
        coverages: coverage by some configs; objects in the order of ``sample.boxes_by_image()``.
        sample: the objects that coverage was computed on, by default all.
        title: of the page.
        stretch: scale of images that are not 8-bit, see :func:`~d2tiny.data.loading.images.read_image`.
    """
    from d2tiny.visualization.html_report import HtmlPage

    page = HtmlPage(title, "sizes, classes, density")
    page.cards(summary(truth))
    names = [f"{label} ({_label(low, high)})" for label, (low, high) in areas.items()]
    table = size_table(truth, areas)
    page.section("Objects by class and size", "Ignored objects and regions do not count.")
    rows: list[list[object]] = [
        [name, *(int(v) for v in row)] for name, row in zip(truth.classes, table, strict=True)
    ]  # fmt: skip
    page.table(["class", *names, "all"], [*rows, ["all", *(int(v) for v in table.sum(axis=0))]])
    page.figures(_plots(truth, areas))
    if coverages:
        tried = sample or truth
        strides = sorted({s for coverage in coverages for s in coverage.strides})
        page.section(
            "What detectors can learn from",
            "Percent of the objects that get at least one positive anchor on a level, and percent without any: those "
            f"are never learned by the proposal network. Tried on {len(tried.image_ids):,} images of native size.",
        )
        headers = ["config", *(f"stride {s}" for s in strides), "none", *(f"none of {label}" for label in areas)]
        page.table(
            headers, _coverage_rows(coverages, strides, tried, areas), heat=range(len(strides) + 1, len(headers))
        )
    if images is not None:
        page.section("Most crowded images", f"The {_TILES} images with the most objects.")
        page.pictures(_pictures(truth, images, stretch))
    page.write(output / "index.html")
