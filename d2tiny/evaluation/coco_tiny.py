"""COCO evaluation with the areas and detection limits of tiny-object benchmarks."""

from __future__ import annotations

import contextlib
import io
import json
import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.evaluation import COCOEvaluator
from faster_coco_eval import COCO, COCOeval_faster
from tabulate import tabulate

from d2tiny.data.datasets import find_source
from d2tiny.data.datasets.coco_like import (
    LoadReport,
    category_numbers,
    image_numbers,
    is_ignored,
    read_box,
    read_coco_json,
)
from d2tiny.evaluation.protocols import Protocol, get_protocol
from d2tiny.utils.errors import DatasetError
from d2tiny.utils.files import write_text

__all__ = ["TinyCOCOEvaluator", "evaluate_detections", "format_table", "load_ground_truth"]

logger = logging.getLogger(__name__)


def _index(dataset: dict[str, Any]) -> COCO:
    coco = COCO()
    coco.dataset = dataset
    with contextlib.redirect_stdout(io.StringIO()):
        coco.createIndex()
    return coco


def _ground_truth(dataset: Mapping[str, Any]) -> dict[str, Any]:
    """Copy what the engine needs; ids count from 1, because COCO engines never count a match with id 0."""
    annotations = []
    for i, annotation in enumerate(dataset["annotations"], start=1):
        x, y, w, h = annotation["bbox"]
        annotations.append(
            {
                "id": i,
                "image_id": annotation["image_id"],
                "category_id": annotation["category_id"],
                "bbox": [x, y, w, h],
                "area": float(annotation.get("area", w * h)),
                "iscrowd": int(annotation.get("iscrowd", 0)),
            }
        )
    return {
        "images": [{"id": image["id"]} for image in dataset["images"]],
        "categories": [{"id": c["id"], "name": c["name"]} for c in dataset["categories"]],
        "annotations": annotations,
    }


def load_ground_truth(path: Path) -> dict[str, Any]:
    """Read a COCO json for evaluation, as leniently as the loader of training data.

    Ids become numbers; annotations that are unreadable or of an unknown image or category are left out and counted;
    ``ignore`` counts like ``iscrowd``. Boxes are neither clipped nor dropped for their size.

    Raises:
        DatasetError: the file is unusable as a whole.
    """
    data = read_coco_json(path)
    images = image_numbers(data["images"], path)
    categories = category_numbers(data["categories"], path)
    report = LoadReport()
    annotations = []
    for annotation in data["annotations"]:
        box = read_box(annotation)
        if annotation.get("image_id") not in images or annotation.get("category_id") not in categories:
            box = "annotations of an unknown image or category"
        if isinstance(box, str):
            report.add(box, f"annotation id {annotation.get('id')}")
            continue
        annotations.append(
            {
                "image_id": images[annotation["image_id"]],
                "category_id": categories[annotation["category_id"]],
                "bbox": box,
                "area": box[2] * box[3] if annotation.get("area") is None else float(annotation["area"]),
                "iscrowd": int(is_ignored(annotation)),
            }
        )
    if report.counts:
        logger.warning("%s: %s", path, report)
    return {
        "images": [{"id": number} for number in images.values()],
        "categories": [{"id": categories[c["id"]], "name": c["name"]} for c in data["categories"]],
        "annotations": annotations,
    }


def _detections(ground_truth: Mapping[str, Any], detections: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    annotations = [
        {
            "id": i,
            "image_id": d["image_id"],
            "category_id": d["category_id"],
            "bbox": list(d["bbox"]),
            "area": d["bbox"][2] * d["bbox"][3],
            "score": d["score"],
            "iscrowd": 0,
        }
        for i, d in enumerate(detections, start=1)
    ]
    return {
        "images": ground_truth["images"],
        "categories": ground_truth["categories"],
        "annotations": annotations,
    }


def _mean(values: np.ndarray) -> float:
    """Mean over the entries that have ground truth, in percent; NaN when none has."""
    values = values[values > -1]
    return float(values.mean() * 100) if values.size else float("nan")


def evaluate_detections(
    dataset: Mapping[str, Any],
    detections: Sequence[Mapping[str, Any]],
    protocol: str | Protocol = "aitod",
    img_ids: Sequence[int] | None = None,
) -> dict[str, float]:
    """Evaluate COCO-style detections against a COCO-style ground truth.

    Args:
        dataset: with ``images, categories, annotations``; ``iscrowd`` marks ignore regions. Not modified.
        detections: ``image_id, category_id, bbox`` (XYWH), ``score``; not modified.
        protocol: areas, limits, thresholds.
        img_ids: evaluate these images only.

    Returns:
        In percent: ``AP, AP50, AP75``, ``AP{bin}``, ``AR@{limit}``, ``AP-{class}``; NaN where there is no ground
        truth, 0 where there is no detection. Differences from pycocotools with the same parameters: a ground truth
        with id 0 counts.
    """
    protocol = get_protocol(protocol)
    truth = _ground_truth(dataset)
    found = _detections(truth, detections)
    if not found["annotations"]:  # one detection that can match nothing keeps the engine's arrays whole
        truth_image, category = truth["images"][0]["id"], truth["categories"][0]["id"]
        found["annotations"].append(
            {
                "id": 1,
                "image_id": truth_image,
                "category_id": category,
                "bbox": [-1e6, -1e6, 1.0, 1.0],
                "area": 1.0,
                "score": 0.0,
                "iscrowd": 0,
            }
        )
    with contextlib.redirect_stdout(io.StringIO()):
        engine = COCOeval_faster(_index(truth), _index(found), "bbox", print_function=lambda *_: None)
        params = engine.params
        params.iouThrs = np.array(protocol.iou_thresholds)
        params.areaRng = [[0.0, 1e10], *[list(bounds) for bounds in protocol.areas.values()]]
        params.areaRngLbl = ["all", *protocol.areas]
        params.maxDets = list(protocol.max_dets)
        if img_ids is not None:
            params.imgIds = list(img_ids)
        engine.evaluate()
        engine.accumulate()
    precision = np.asarray(engine.eval["precision"])  # (IoU, recall, class, area, limit)
    recall = np.asarray(engine.eval["recall"])  # (IoU, class, area, limit)

    results = {"AP": _mean(precision[:, :, :, 0, -1])}
    for label, threshold in (("AP50", 0.5), ("AP75", 0.75)):
        at = np.isclose(protocol.iou_thresholds, threshold)
        results[label] = _mean(precision[at][:, :, :, 0, -1])
    for i, label in enumerate(protocol.areas, start=1):
        results[f"AP{label}"] = _mean(precision[:, :, :, i, -1])
    for i, limit in enumerate(protocol.max_dets):
        results[f"AR@{limit}"] = _mean(recall[:, :, 0, i])
    names = {c["id"]: str(c["name"]).strip() for c in dataset["categories"]}
    for i, category_id in enumerate(params.catIds):
        results[f"AP-{names[category_id]}"] = _mean(precision[:, :, i, 0, -1])
    return results


def format_table(results: Mapping[str, float]) -> str:
    """Return two text tables: the metrics, and AP by class."""
    main = {k: v for k, v in results.items() if not k.startswith("AP-")}
    classes = {k.removeprefix("AP-"): v for k, v in results.items() if k.startswith("AP-")}

    def table(row: Mapping[str, float]) -> str:
        cells = [["-" if np.isnan(v) else f"{v:.1f}" for v in row.values()]]
        return tabulate(cells, headers=list(row), tablefmt="pipe", stralign="center", disable_numparse=True)

    return table(main) + ("\n\n" + table(classes) if len(classes) > 1 else "")


class TinyCOCOEvaluator(COCOEvaluator):
    """Detectron2's COCOEvaluator with a protocol of tiny-object benchmarks.

    Handles thousands of detections per image, ground-truth ids from 0 or missing, and no detections at all. Regions
    with ``ignore`` or ``iscrowd`` are not punished (the AI-TOD reference looks at ``iscrowd`` only; in its files both
    agree). Calling :meth:`evaluate` twice gives the same result (Detectron2's does not).
    """

    def __init__(
        self,
        dataset_name: str,
        *,
        protocol: str | Protocol = "aitod",
        max_dets: Sequence[int] | None = None,
        distributed: bool = True,
        output_dir: str | os.PathLike[str] | None = None,
    ) -> None:
        """Load the ground truth.

        Args:
            dataset_name: a registered dataset.
            protocol: name or :class:`Protocol`.
            max_dets: detections of an image that count, instead of the protocol's (AI-TOD: 1, 100, 1500).
            distributed: gather from all processes.
            output_dir: where ``coco_instances_results.json`` goes; None writes nothing.

        Raises:
            DatasetError: the annotations are missing.
            ConfigError: unknown protocol or bad limits.
        """
        # The parent's constructor is not called: it reads the json with pycocotools, which stops at things that the
        # loader accepts (a missing id, say). These are the attributes that its other methods use.
        self._logger = logger
        self._distributed = distributed
        self._output_dir = str(output_dir) if output_dir is not None else None
        self._cpu_device = torch.device("cpu")
        self._do_evaluation = True
        self._predictions: list[dict[str, Any]] = []
        self._results: dict[str, dict[str, float]] = {}
        self.protocol = get_protocol(protocol)
        if max_dets is not None:
            self.protocol = self.protocol.with_max_dets(max_dets)
        source = find_source(dataset_name)
        self._metadata = MetadataCatalog.get(dataset_name)
        if source is not None and str(source.json_file()) != getattr(self._metadata, "json_file", ""):
            DatasetCatalog.get(dataset_name)  # sets paths and the class map
            self._metadata = MetadataCatalog.get(dataset_name)
        if not hasattr(self._metadata, "json_file"):
            raise DatasetError(
                f"'{dataset_name}' has no COCO json to evaluate against; register it with register_coco_like."
            )
        self._truth = load_ground_truth(Path(self._metadata.json_file))

    def _eval_predictions(self, predictions: list[dict[str, Any]], img_ids: Sequence[int] | None = None) -> None:
        """Fill ``self._results['bbox']``; the stored predictions are not modified."""
        number = len(self._metadata.thing_classes)
        own = {c["id"] for c in self._truth["categories"]}
        id_map = getattr(self._metadata, "thing_dataset_id_to_contiguous_id", {i: i for i in own})
        reverse = {contiguous: dataset_id for dataset_id, contiguous in id_map.items()}
        detections = []
        for prediction in predictions:
            for item in prediction["instances"]:
                if item["category_id"] >= number:
                    raise DatasetError(
                        f"The model predicts class {item['category_id']}, but {self._metadata.name} has "
                        f"{number} classes. Set model.roi_heads.num_classes={number}."
                    )
                # A class that this json does not list has no ground truth here, so its detections do not count.
                if item["category_id"] in reverse:
                    detections.append({**item, "category_id": reverse[item["category_id"]]})
        if self._output_dir:
            write_text(Path(self._output_dir) / "coco_instances_results.json", json.dumps(detections))
        self._results["bbox"] = evaluate_detections(self._truth, detections, self.protocol, img_ids)
        self._logger.info(
            "%s (%s protocol, %d images, %d detections)\n%s",
            self._metadata.name,
            self.protocol.name,
            len(predictions),
            len(detections),
            format_table(self._results["bbox"]),
        )
