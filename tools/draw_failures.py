#!/usr/bin/env python
"""Draw where published weights fail, for their model card: docs/images/failures_NAME.jpg.

The images with the most errors, with found, missed and false boxes, at the score of the best F1 of each class. They are
taken from the first split that the weights were measured on whose images may be shown with a credit.

    DETECTRON2_DATASETS=/data python tools/draw_failures.py thermal
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from d2tiny.analysis.model_card import picture_of, shown_split
from d2tiny.cli.common import guarded
from d2tiny.utils.errors import ConfigError
from d2tiny.utils.files import open_atomic
from d2tiny.utils.licences import SHOWN
from d2tiny.utils.published import Measurement, named_weights

ROOT = Path(__file__).resolve().parents[1]
Pixels = np.ndarray[Any, Any]
COLUMNS = 3
WIDTH = 560  # px of a panel


def main() -> int:
    """Predict where that is not done yet, and draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", help="published weights")
    parser.add_argument("--weights-from", default="", metavar="PLACE", help="folder or URL of published weights")
    parser.add_argument(
        "--predictions", type=Path, metavar="JSON", help="of these weights; default: those of publishing"
    )
    parser.add_argument("--number", type=int, default=6, help="images to draw (default %(default)s)")
    parser.add_argument("--output", type=Path, help="default: docs/images/failures_NAME.jpg")
    args = parser.parse_args()
    return guarded(lambda: _draw(args), output=args.output)


def _draw(args: argparse.Namespace) -> int:
    entry = named_weights(args.name, args.weights_from)
    if entry is None:
        raise ConfigError(f"No published weights are called '{args.name}'; d2tiny zoo --published lists them.")
    shown = shown_split(entry)
    if shown is None:
        raise ConfigError(
            f"{entry.measured.dataset}: these images are not shown; only those of {', '.join(SHOWN)} are."
        )
    work = ROOT / "output" / "publish" / entry.name
    if shown is not entry.measured:
        work /= shown.dataset
    predictions = args.predictions or work / "inference" / "coco_instances_results.json"
    if not predictions.is_file():
        from d2tiny.engine.publish import evaluate_weights

        evaluate_weights(entry.config, entry.local_file(), work, [f"dataloader.test.dataset.names={shown.dataset}"])
        predictions = work / "inference" / "coco_instances_results.json"
    picture = _sheet(shown, predictions, args.number)
    target = args.output or ROOT / picture_of(entry.name)
    with open_atomic(target) as file:
        file.write(cv2.imencode(".jpg", picture[:, :, ::-1], [cv2.IMWRITE_JPEG_QUALITY, 88])[1].tobytes())
    print(target)
    return 0


def _sheet(measured: Measurement, predictions: Path, number: int) -> Pixels:
    """Return the worst images beside and below each other."""
    from d2tiny.data.coco.arrays import load_ground_truth
    from d2tiny.data.datasets import find_source
    from d2tiny.data.loading.images import read_image
    from d2tiny.evaluation import load_detections, make_protocol
    from d2tiny.evaluation.curves import best_thresholds
    from d2tiny.evaluation.errors import analyse_errors
    from d2tiny.evaluation.report import draw_errors, worst_images

    source = find_source(measured.dataset)
    if source is None:
        raise ConfigError(f"{measured.dataset}: no such dataset.")
    truth = load_ground_truth(source.json_file())
    analysis = analyse_errors(truth, load_detections(predictions, truth), make_protocol(measured.protocol))
    thresholds = best_thresholds(analysis)
    order, missed, false = worst_images(analysis, thresholds)
    panels = []
    for image in _far_apart(order, truth.file_names, number):
        name = truth.file_names[image]
        pixels = read_image(source.image_dirs()[0] / name)
        drawn = draw_errors(analysis, thresholds, image, pixels)
        panels.append(_captioned(drawn, f"{name}: {missed[image]} missed, {false[image]} false"))
    return _in_rows(panels)


def _in_rows(panels: Sequence[Pixels]) -> Pixels:
    """Return panels of one width in rows of :data:`COLUMNS`; lower ones get white below."""
    rows = []
    for start in range(0, len(panels), COLUMNS):
        row = panels[start : start + COLUMNS]
        height = max(panel.shape[0] for panel in row)
        missing = np.full((height, panels[0].shape[1], 3), 255, np.uint8)
        row = [np.pad(p, ((0, height - p.shape[0]), (0, 0), (0, 0)), constant_values=255) for p in row]
        rows.append(np.concatenate([*row, *[missing] * (min(COLUMNS, len(panels)) - len(row))], axis=1))
    return np.concatenate(rows)


def _far_apart(order: Pixels, names: Sequence[str], number: int) -> list[int]:
    """Return the first images of an order, one of each series: names that differ in their last number only."""
    chosen: dict[str, int] = {}
    for image in order.tolist():
        chosen.setdefault(Path(names[image]).stem.rpartition("_")[0] or names[image], image)
    return list(chosen.values())[:number]


def _captioned(picture: Pixels, text: str) -> Pixels:
    scale = WIDTH / picture.shape[1]
    small = cv2.resize(picture, (WIDTH, round(picture.shape[0] * scale)), interpolation=cv2.INTER_AREA)
    strip = np.full((22, WIDTH, 3), 24, np.uint8)
    cv2.putText(strip, text, (6, 15), cv2.FONT_HERSHEY_SIMPLEX, 0.42, (235, 235, 235), 1, cv2.LINE_AA)
    return np.pad(np.concatenate((small, strip)), ((0, 6), (3, 3), (0, 0)), constant_values=255)


if __name__ == "__main__":
    sys.exit(main())
