"""Error report: an HTML page with metrics, types of errors, curves and the images with most errors."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from d2tiny.data.coco.arrays import GroundTruth
from d2tiny.data.coco.boxes import xywh_to_xyxy
from d2tiny.data.coco.source import relative_name
from d2tiny.data.loading.raster import read_reduced
from d2tiny.evaluation import curves, errors
from d2tiny.evaluation.detections import Detections
from d2tiny.evaluation.engine import EvaluationResult, evaluate_arrays
from d2tiny.evaluation.errors import ERRORS, ErrorAnalysis, analyse_errors, delta_ap
from d2tiny.evaluation.protocols import Protocol
from d2tiny.evaluation.table import CLASS_PREFIXES
from d2tiny.utils.errors import DatasetError
from d2tiny.utils.files import write_text
from d2tiny.visualization.html_report import COLORS, HtmlPage, new_figure

__all__ = ["BOX_COLORS", "density_groups", "draw_errors", "worst_images", "write_report"]

logger = logging.getLogger(__name__)

BOX_COLORS = {"found": (0, 200, 80), "missed": (255, 60, 60), "false": (255, 200, 0)}  # RGB
_NUM_PICTURES = 12
_SIDE = 1600  # px, the longer side of a picture at most; larger images are never in memory as a whole
_AREA_NAMES = {"vt": "very tiny", "t": "tiny", "s": "small", "m": "medium", "l": "large"}


def density_groups(truth: GroundTruth) -> dict[str, np.ndarray]:
    """Group images by their number of objects; return name → (I,) bool mask without empty groups."""
    counts = np.bincount(truth.image[~truth.ignore], minlength=len(truth.image_ids))
    limits = [(1, 10), (11, 50), (51, 200), (201, np.inf)]
    groups = {
        f"{low}-{int(high)} objects" if np.isfinite(high) else f"over {low - 1} objects": (counts >= low)
        & (counts <= high)
        for low, high in limits
    }
    return {name: mask for name, mask in groups.items() if mask.any()}


def _errors_table(analysis: ErrorAnalysis, protocol: Protocol) -> list[list[object]]:
    groups: list[tuple[str, dict[str, float]]] = [("all", delta_ap(analysis))]
    for label, (low, high) in protocol.areas.items():
        sides = f"{low**0.5:g}-{high**0.5:g} px" if high < 1e9 else f"over {low**0.5:g} px"
        groups.append((f"{_AREA_NAMES.get(label, label)} ({sides})", delta_ap(analysis, area=(low, high))))
    for name, mask in density_groups(analysis.truth).items():
        groups.append((f"images with {name}", delta_ap(analysis, images=mask)))
    return [[name, int(row["objects"]), row["AP50"], *(row[e] for e in ERRORS)] for name, row in groups]


def _error_bars(rows: Sequence[Sequence[object]]) -> Figure:
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


def _add_histogram(axes: Axes, edges: np.ndarray, counts: np.ndarray, label: str, *, scale: str = "linear") -> None:
    """Draw a histogram with its own axis at the right, behind the curves of ``axes``."""
    histogram = axes.twinx()
    histogram.bar(edges[:-1], counts, np.diff(edges), align="edge", color="#dbe2e8", zorder=0)
    if scale != "linear":
        histogram.set_yscale(scale)
    histogram.set_ylabel(label, fontsize=9, color="#8a96a3")
    histogram.tick_params(labelsize=8, colors="#8a96a3")
    histogram.spines[["top", "right"]].set_visible(False)
    axes.set_zorder(histogram.get_zorder() + 1)
    axes.patch.set_visible(False)


def _recall_plot(truth: GroundTruth, detections: Detections, protocol: Protocol) -> Figure:
    sizes = np.sqrt(truth.area[~truth.ignore])
    edges = curves.size_edges(float(sizes.max(initial=32.0)))
    thresholds = (0.25, 0.5, 0.75)
    recall, counts = curves.recall_by_size(truth, detections, protocol, edges, thresholds)
    figure, axes = new_figure()
    middle = (edges[1:] + edges[:-1]) / 2
    for row, threshold, color in zip(recall, thresholds, COLORS, strict=False):
        known = counts > 0
        axes.plot(middle[known], row[known] * 100, marker="o", markersize=3, color=color, label=f"IoU {threshold:g}")
    _add_histogram(axes, edges, counts, "objects")
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
    names = [analysis.truth.classes[k].replace("$", r"\$") for k in known]  # names are not TeX
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
    _add_histogram(axes, np.linspace(0, 1, len(measured.count) + 1), measured.count, "detections", scale="symlog")
    axes.set_xlim(0, 1)
    axes.set_ylim(0, 1.02)
    axes.set_xlabel("score", fontsize=9)
    axes.set_ylabel("share that is right (IoU 0.5)", fontsize=9)
    axes.legend(fontsize=8, frameon=False, loc="upper left")
    return figure


def worst_images(analysis: ErrorAnalysis, thresholds: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Sort images by their number of errors at given score thresholds.

    Args:
        analysis: analysis of the dataset.
        thresholds: (K,) lowest score of a detection of each class.

    Returns:
        indices (I,) of the images, most errors first; numbers of missed objects (I,) and of false positives (I,).
    """
    truth, detections = analysis.truth, analysis.detections
    images = len(truth.image_ids)
    shown = detections.scores >= thresholds[detections.category]
    hit = np.zeros(len(truth), dtype=bool)
    hit[analysis.target[shown & (analysis.kind == errors.TRUE)]] = True
    missed = np.bincount(truth.image[~hit & analysis.objects], minlength=images)
    wrong = shown & (analysis.kind > errors.IGNORED)
    false = np.bincount(detections.image[wrong], minlength=images)
    return np.argsort(-(missed + false), kind="stable"), missed, false


def draw_errors(
    analysis: ErrorAnalysis, thresholds: np.ndarray, index: int, pixels: np.ndarray, factor: int = 1
) -> np.ndarray:
    """Draw found, missed and false boxes on an image that is enlarged so that tiny objects are visible.

    Args:
        analysis: analysis of the dataset.
        thresholds: (K,) lowest score of a detection of each class.
        index: of the image.
        pixels: (H, W, 3) uint8 RGB; not modified.
        factor: how many times smaller than the image ``pixels`` are.

    Returns:
        (H', W', 3) uint8 RGB, with boxes in the colours of :data:`BOX_COLORS`.
    """
    truth, detections = analysis.truth, analysis.detections
    scale = max(1, min(4, round(1400 / max(pixels.shape[:2]))))
    canvas = cv2.resize(pixels, None, fx=scale, fy=scale, interpolation=cv2.INTER_CUBIC)
    shown = (detections.image == index) & (detections.scores >= thresholds[detections.category])
    correct = np.flatnonzero(shown & (analysis.kind == errors.TRUE))
    objects = np.flatnonzero((truth.image == index) & analysis.objects)
    missed = objects[~np.isin(objects, analysis.target[correct])]
    wrong = np.flatnonzero(shown & (analysis.kind > errors.IGNORED))
    boxes_by_kind = {
        "found": detections.boxes[correct],
        "false": detections.boxes[wrong],
        "missed": truth.boxes[missed],
    }
    limit = np.array([canvas.shape[1], canvas.shape[0]] * 2) + 2.0
    for name, boxes in boxes_by_kind.items():
        corners = xywh_to_xyxy(boxes) * (scale / factor)
        for x1, y1, x2, y2 in np.round(corners.clip(-2, limit)).astype(int).tolist():
            cv2.rectangle(canvas, (x1 - 1, y1 - 1), (x2, y2), BOX_COLORS[name], 1)
    shrink = _SIDE / max(canvas.shape[:2])
    return cv2.resize(canvas, None, fx=shrink, fy=shrink, interpolation=cv2.INTER_AREA) if shrink < 1 else canvas


def _pictures(analysis: ErrorAnalysis, images: Path, thresholds: np.ndarray) -> list[tuple[np.ndarray, str]]:
    order, missed, false = worst_images(analysis, thresholds)
    pictures: list[tuple[np.ndarray, str]] = []
    for index in order[missed[order] + false[order] > 0].tolist():
        if len(pictures) == _NUM_PICTURES:
            break
        name = relative_name(analysis.truth.file_names[index])
        if name is None:
            continue
        try:
            pixels, factor = read_reduced(images / name, _SIDE)
        except (DatasetError, ImportError) as err:
            logger.warning("%s", err)
            continue
        caption = f"{name}: {missed[index]} missed, {false[index]} false"
        pictures.append((draw_errors(analysis, thresholds, index, pixels, factor), caption))
    return pictures


def _class_rows(result: EvaluationResult, analysis: ErrorAnalysis, thresholds: np.ndarray) -> list[list[object]]:
    truth = analysis.truth
    ap = result.ap[result.protocol.integrators[0]]
    used = len(result.protocol.iou_thresholds)
    half = np.isclose(result.thresholds, 0.5)
    rows: list[list[object]] = []
    for k, name in enumerate(truth.classes):
        detections = int(((analysis.detections.category == k) & (analysis.kind != errors.IGNORED)).sum())
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
    detections: Detections,
    protocol: Protocol,
    output: Path,
    *,
    images: Path | None = None,
    title: str = "Evaluation",
) -> dict[str, float]:
    """Write ``index.html`` (self-contained) and ``metrics.json`` into a folder.

    Args:
        truth: the ground truth.
        detections: the detections.
        protocol: protocol of the metrics; the error analysis uses it at an IoU threshold of 0.5.
        output: output folder.
        images: folder of the images; None leaves the pictures out.
        title: title of the page.

    Returns:
        The metrics.
    """
    result = evaluate_arrays(truth, detections, protocol)
    metrics = result.metrics()
    analysis = analyse_errors(truth, detections, protocol)
    thresholds = curves.best_thresholds(analysis)
    images_count, objects = len(truth.image_ids), int((~truth.ignore).sum())
    counts = f"{images_count:,} images · {objects:,} objects · {len(detections):,} detections"
    page = HtmlPage(title, f"{protocol.name} protocol · {counts}")
    _metrics_section(page, metrics)
    _classes_section(page, result, analysis, thresholds)
    _errors_section(page, analysis, protocol)
    _curves_section(page, truth, detections, analysis)
    if images is not None:
        _pictures_section(page, analysis, images, thresholds)
    page.write(output / "index.html")
    write_text(
        output / "metrics.json",
        json.dumps({k: None if np.isnan(v) else v for k, v in metrics.items()}, indent=1) + "\n",
    )
    return metrics


def _metrics_section(page: HtmlPage, metrics: dict[str, float]) -> None:
    main = {k: v for k, v in metrics.items() if not k.startswith(CLASS_PREFIXES)}
    page.cards({k: "–" if np.isnan(v) else f"{v:.1f}" for k, v in list(main.items())[:8]})
    page.section("All metrics", "In percent. AR: recall at a number of detections; oLRP: an error, lower is better.")
    names = list(main)
    for start in range(0, len(names), 9):
        part = names[start : start + 9]
        page.table(part, [[main[n] for n in part]])


def _classes_section(page: HtmlPage, result: EvaluationResult, analysis: ErrorAnalysis, thresholds: np.ndarray) -> None:
    page.section(
        "Classes",
        "The score is where F1 at IoU 0.5 is highest: a threshold for deployment. Detections in ignored regions do not "
        "count.",
    )
    page.table(
        ["class", "objects", "detections", "AP", "AP50", "oLRP", "score"], _class_rows(result, analysis, thresholds)
    )


def _curves_section(page: HtmlPage, truth: GroundTruth, detections: Detections, analysis: ErrorAnalysis) -> None:
    page.section("Curves")
    protocol, measured = analysis.protocol, curves.calibration(analysis)
    calibration_note = (
        "scores outside 0 to 1 are no probabilities"
        if np.isnan(measured.error)
        else f"expected calibration error {measured.error * 100:.1f} points"
    )
    page.figures(
        [
            (_recall_plot(truth, detections, protocol), "Recall against size; bars: how many objects there are"),
            (_pr_plot(analysis), "Precision and recall of each class at IoU 0.5"),
            (_calibration_plot(measured), f"Scores against what is right; {calibration_note}"),
        ]
    )


def _pictures_section(page: HtmlPage, analysis: ErrorAnalysis, images: Path, thresholds: np.ndarray) -> None:
    page.section(
        "Worst tiles",
        "The images with the most errors at each class's best score. Their boxes are enlarged with the image.",
    )
    page.legend({name: f"rgb{color}" for name, color in BOX_COLORS.items()})
    pictures = _pictures(analysis, images, thresholds)
    page.pictures(pictures)
    if not pictures:
        page.text("None: there are no errors, or the images could not be read.")


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
    page.figures([(_error_bars(rows), "By size and by density"), (figure, "Number of cases, whatever their score")])
