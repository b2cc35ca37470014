"""The error report: one HTML page that shows what a detector gets wrong."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
from matplotlib.figure import Figure

from d2tiny.data.coco.arrays import GroundTruth
from d2tiny.data.coco.boxes import xywh_to_xyxy
from d2tiny.data.coco.source import relative_name
from d2tiny.data.loading.images import read_image
from d2tiny.evaluation import curves, errors
from d2tiny.evaluation.detections import Detections
from d2tiny.evaluation.engine import EvaluationResult, evaluate_arrays
from d2tiny.evaluation.errors import ERRORS, ErrorAnalysis, analyse_errors, lost_precision
from d2tiny.evaluation.protocols import Protocol
from d2tiny.utils.errors import DatasetError
from d2tiny.utils.files import write_text
from d2tiny.visualization.html_report import COLORS, HtmlPage, new_figure

__all__ = ["density_groups", "worst_images", "write_report"]

logger = logging.getLogger(__name__)

_DRAWN = {"found": (0, 200, 80), "missed": (255, 60, 60), "false": (255, 200, 0)}  # RGB
_TILES = 12
_NAMES = {"vt": "very tiny", "t": "tiny", "s": "small", "m": "medium", "l": "large"}


def density_groups(truth: GroundTruth) -> dict[str, np.ndarray]:
    """Images grouped by their number of objects: name → (I,) bool; empty groups are left out."""
    counts = np.bincount(truth.image[~truth.ignore], minlength=len(truth.image_ids))
    limits = [(1, 10), (11, 50), (51, 200), (201, np.inf)]
    groups = {
        f"{low}-{int(high)} objects" if np.isfinite(high) else f"over {low - 1} objects": (counts >= low)
        & (counts <= high)
        for low, high in limits
    }
    return {name: mask for name, mask in groups.items() if mask.any()}


def _errors_table(analysis: ErrorAnalysis, protocol: Protocol) -> list[list[object]]:
    groups: list[tuple[str, dict[str, float]]] = [("all", lost_precision(analysis))]
    for label, (low, high) in protocol.areas.items():
        sides = f"{low**0.5:g}-{high**0.5:g} px" if high < 1e9 else f"over {low**0.5:g} px"
        groups.append((f"{_NAMES.get(label, label)} ({sides})", lost_precision(analysis, area=(low, high))))
    for name, mask in density_groups(analysis.truth).items():
        groups.append((f"images with {name}", lost_precision(analysis, images=mask)))
    return [[name, int(row["objects"]), row["AP50"], *(row[e] for e in ERRORS)] for name, row in groups]


def _bars(rows: Sequence[Sequence[object]]) -> Figure:
    figure, axes = new_figure(6.2, 0.36 * len(rows) + 1.3)
    left = np.zeros(len(rows))
    values = np.nan_to_num(np.array([row[2:] for row in rows], dtype=np.float64)).clip(min=0)
    for i, name in enumerate(("AP50", *ERRORS)):
        color = "#b9c4ce" if i == 0 else COLORS[(i - 1) % len(COLORS)]
        axes.barh(range(len(rows)), values[:, i], left=left, color=color, label=name, height=0.7)
        left += values[:, i]
    axes.set_yticks(range(len(rows)), [str(row[0]) for row in rows])
    axes.invert_yaxis()
    axes.grid(axis="y", visible=False)
    axes.set_xlabel("AP50 and what each error costs, points (they do not add up to 100)", fontsize=9)
    axes.legend(ncols=4, fontsize=8, frameon=False, loc="lower center", bbox_to_anchor=(0.4, 1.0))
    return figure


def _recall_plot(truth: GroundTruth, found: Detections, protocol: Protocol) -> Figure:
    sizes = np.sqrt(truth.area[~truth.ignore])
    edges = curves.size_edges(float(sizes.max(initial=32.0)))
    thresholds = (0.25, 0.5, 0.75)
    recall, counts = curves.recall_by_size(truth, found, protocol, edges, thresholds)
    figure, axes = new_figure()
    middle = (edges[1:] + edges[:-1]) / 2
    for row, threshold, color in zip(recall, thresholds, COLORS, strict=False):
        known = counts > 0
        axes.plot(middle[known], row[known] * 100, marker="o", markersize=3, color=color, label=f"IoU {threshold:g}")
    histogram = axes.twinx()
    histogram.bar(edges[:-1], counts, np.diff(edges), align="edge", color="#dbe2e8", zorder=0)
    histogram.set_ylabel("objects", fontsize=9, color="#8a96a3")
    histogram.tick_params(labelsize=8, colors="#8a96a3")
    histogram.spines[["top", "right"]].set_visible(False)
    axes.set_zorder(histogram.get_zorder() + 1)
    axes.patch.set_visible(False)
    axes.set_xlim(0, min(96.0, edges[-1]))
    axes.set_ylim(0, 102)
    axes.set_xlabel("size: square root of the area, px", fontsize=9)
    axes.set_ylabel("recall at any score, %", fontsize=9)
    axes.legend(fontsize=8, frameon=False)
    return figure


def _pr_plot(analysis: ErrorAnalysis) -> Figure:
    figure, axes = new_figure()
    precision = curves.precision_recall(analysis)
    known = np.flatnonzero(~np.isnan(precision).any(axis=1))
    lines = [
        axes.plot(curves.RECALLS * 100, precision[k] * 100, color=COLORS[k % len(COLORS)], linewidth=1.4)[0]
        for k in known
    ]
    names = [analysis.truth.classes[k].replace("$", r"\$") for k in known]  # no mathematics in names
    if len(known):
        mean = precision[known].mean(axis=0) * 100
        lines.append(axes.plot(curves.RECALLS * 100, mean, color="#17222e", linewidth=2.4)[0])
        names.append("mean")
    axes.set_xlim(0, 100)
    axes.set_ylim(0, 102)
    axes.set_xlabel("recall, %", fontsize=9)
    axes.set_ylabel("precision at IoU 0.5, %", fontsize=9)
    axes.legend(lines, names, fontsize=8, frameon=False, ncols=1 + len(names) // 12)
    return figure


def _calibration_plot(measured: curves.Calibration) -> Figure:
    figure, axes = new_figure()
    known = measured.count > 0
    axes.plot([0, 1], [0, 1], color="#8a96a3", linestyle="--", linewidth=1, label="a score that can be trusted")
    axes.plot(measured.score[known], measured.precision[known], marker="o", color=COLORS[0], label="measured")
    histogram = axes.twinx()
    edges = np.linspace(0, 1, len(measured.count) + 1)
    histogram.bar(edges[:-1], measured.count, np.diff(edges), align="edge", color="#dbe2e8", zorder=0)
    histogram.set_yscale("symlog")
    histogram.set_ylabel("detections", fontsize=9, color="#8a96a3")
    histogram.tick_params(labelsize=8, colors="#8a96a3")
    histogram.spines[["top", "right"]].set_visible(False)
    axes.set_zorder(histogram.get_zorder() + 1)
    axes.patch.set_visible(False)
    axes.set_xlim(0, 1)
    axes.set_ylim(0, 1.02)
    axes.set_xlabel("score", fontsize=9)
    axes.set_ylabel("share that is right (IoU 0.5)", fontsize=9)
    axes.legend(fontsize=8, frameon=False, loc="upper left")
    return figure


def worst_images(analysis: ErrorAnalysis, thresholds: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Order images by their errors at deployment.

    Args:
        analysis: of the dataset.
        thresholds: (K,) score from which a detection is shown.

    Returns:
        images (I,) with the most misses and false alarms first; missed (I,) and false (I,) counts by image.
    """
    truth, found = analysis.truth, analysis.found
    images = len(truth.image_ids)
    shown = found.scores >= thresholds[found.category]
    hit = np.zeros(len(truth), dtype=bool)
    hit[analysis.target[shown & (analysis.kind == errors.TRUE)]] = True
    missed = np.bincount(truth.image[~hit & analysis.objects], minlength=images)
    wrong = shown & (analysis.kind > errors.IGNORED)
    false = np.bincount(found.image[wrong], minlength=images)
    return np.argsort(-(missed + false), kind="stable"), missed, false


def _draw(analysis: ErrorAnalysis, thresholds: np.ndarray, index: int, pixels: np.ndarray) -> np.ndarray:
    """An image with found, missed and false boxes, enlarged so that tiny ones can be seen."""
    truth, found = analysis.truth, analysis.found
    scale = max(1, min(4, round(1400 / max(pixels.shape[:2]))))
    canvas = cv2.resize(pixels, None, fx=scale, fy=scale, interpolation=cv2.INTER_CUBIC)
    shown = (found.image == index) & (found.scores >= thresholds[found.category])
    right = np.flatnonzero(shown & (analysis.kind == errors.TRUE))
    objects = np.flatnonzero((truth.image == index) & analysis.objects)
    missed = objects[~np.isin(objects, analysis.target[right])]
    wrong = np.flatnonzero(shown & (analysis.kind > errors.IGNORED))
    shown_boxes = {"found": found.boxes[right], "false": found.boxes[wrong], "missed": truth.boxes[missed]}
    limit = np.array([canvas.shape[1], canvas.shape[0]] * 2) + 2.0
    for name, boxes in shown_boxes.items():
        corners = xywh_to_xyxy(boxes) * scale
        for x1, y1, x2, y2 in np.round(corners.clip(-2, limit)).astype(int).tolist():
            cv2.rectangle(canvas, (x1 - 1, y1 - 1), (x2, y2), _DRAWN[name], 1)
    largest = 1600 / max(canvas.shape[:2])
    return cv2.resize(canvas, None, fx=largest, fy=largest, interpolation=cv2.INTER_AREA) if largest < 1 else canvas


def _tiles(analysis: ErrorAnalysis, images: Path, thresholds: np.ndarray) -> list[tuple[np.ndarray, str]]:
    order, missed, false = worst_images(analysis, thresholds)
    pictures: list[tuple[np.ndarray, str]] = []
    for index in order[missed[order] + false[order] > 0].tolist():
        if len(pictures) == _TILES:
            break
        name = relative_name(analysis.truth.file_names[index])
        if name is None:
            continue
        try:
            pixels = read_image(images / name)
        except DatasetError as err:
            logger.warning("%s", err)
            continue
        caption = f"{name}: {missed[index]} missed, {false[index]} false"
        pictures.append((_draw(analysis, thresholds, index, pixels), caption))
    return pictures


def _class_rows(result: EvaluationResult, analysis: ErrorAnalysis, thresholds: np.ndarray) -> list[list[object]]:
    truth = analysis.truth
    ap = result.ap[result.protocol.integrators[0]]
    used = len(result.protocol.iou_thresholds)
    half = np.isclose(result.thresholds, 0.5)
    rows: list[list[object]] = []
    for k, name in enumerate(truth.classes):
        detections = int(((analysis.found.category == k) & (analysis.kind != errors.IGNORED)).sum())
        lrp = result.lrp[k].total * 100 if result.lrp else float("nan")
        rows.append(
            [
                name,
                int(result.positives[k, 0]),
                detections,
                float(ap[:used, k, 0].mean() * 100),
                float(ap[half, k, 0].mean() * 100) if half.any() else float("nan"),
                lrp,
                f"{thresholds[k]:.2f}" if result.positives[k, 0] else "–",
            ]
        )
    return rows


def write_report(
    truth: GroundTruth,
    found: Detections,
    protocol: Protocol,
    output: Path,
    *,
    images: Path | None = None,
    title: str = "Evaluation",
) -> dict[str, float]:
    """Write ``index.html`` (self-contained) and ``metrics.json`` into a folder.

    Args:
        truth: objects.
        found: detections.
        protocol: of the metrics; the error analysis follows it, at IoU 0.5.
        output: folder.
        images: folder of the images; without it the page has no pictures.
        title: of the page.

    Returns:
        The metrics.
    """
    result = evaluate_arrays(truth, found, protocol)
    metrics = result.metrics()
    analysis = analyse_errors(truth, found, protocol)
    thresholds = curves.best_thresholds(analysis)
    objects = int((~truth.ignore).sum())
    page = HtmlPage(
        title,
        f"{protocol.name} protocol · {len(truth.image_ids):,} images · {objects:,} objects · {len(found):,} detections",
    )
    main = {k: v for k, v in metrics.items() if not k.startswith(("AP-", "threshold-"))}
    page.cards({k: "–" if np.isnan(v) else f"{v:.1f}" for k, v in list(main.items())[:8]})
    page.section("All metrics", "In percent. AR: recall at a number of detections; oLRP: an error, lower is better.")
    names = list(main)
    for start in range(0, len(names), 9):
        part = names[start : start + 9]
        page.table(part, [[main[n] for n in part]])
    page.section(
        "Classes",
        "The score is where F1 at IoU 0.5 is highest: a threshold for deployment. Detections in ignored regions do not "
        "count.",
    )
    page.table(
        ["class", "objects", "detections", "AP", "AP50", "oLRP", "score"], _class_rows(result, analysis, thresholds)
    )
    _errors_section(page, analysis, protocol)
    page.section("Curves")
    measured = curves.calibration(analysis)
    page.figures(
        [
            (_recall_plot(truth, found, protocol), "Recall against size; bars: how many objects there are"),
            (_pr_plot(analysis), "Precision and recall of each class at IoU 0.5"),
            (
                _calibration_plot(measured),
                "Scores against what is right; "
                + (
                    "scores outside 0 to 1 are no probabilities"
                    if np.isnan(measured.error)
                    else f"expected calibration error {measured.error * 100:.1f} points"
                ),
            ),
        ]
    )
    if images is not None:
        page.section(
            "Worst tiles",
            "The images with the most errors at each class's best score. Their boxes are enlarged with the image.",
        )
        page.legend({name: f"rgb{color}" for name, color in _DRAWN.items()})
        pictures = _tiles(analysis, images, thresholds)
        page.pictures(pictures)
        if not pictures:
            page.text("None: there are no errors, or the images could not be read.")
    page.write(output / "index.html")
    write_text(
        output / "metrics.json",
        json.dumps({k: None if np.isnan(v) else v for k, v in metrics.items()}, indent=1) + "\n",
    )
    return metrics


def _errors_section(page: HtmlPage, analysis: ErrorAnalysis, protocol: Protocol) -> None:
    page.section(
        "Where precision is lost",
        "How many points AP50 would rise without one kind of error. Missed: nothing of IoU 0.1 or more with the right "
        "class, nothing of 0.5 with another. Localisation: right class, IoU 0.1-0.5. Class: wrong class, IoU 0.5 or "
        "more. Both: wrong class and IoU 0.1-0.5. Duplicate: the object was found already. Background: no object.",
    )
    rows = _errors_table(analysis, protocol)
    page.table(["", "objects", "AP50", *ERRORS], rows, heat=range(3, 3 + len(ERRORS)))
    counts = analysis.counts()
    figure, axes = new_figure(4.6, 0.36 * len(rows) + 1.3)
    axes.bar(range(len(ERRORS)), [counts[e] for e in ERRORS], color=COLORS[: len(ERRORS)])
    axes.set_xticks(range(len(ERRORS)), ERRORS, fontsize=8, rotation=20)
    axes.set_yscale("symlog")
    axes.set_ylabel("cases at any score", fontsize=9)
    page.figures([(_bars(rows), "By size and by density"), (figure, "Number of cases, whatever their score")])
