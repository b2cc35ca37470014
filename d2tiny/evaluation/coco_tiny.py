"""Detectron2's evaluator interface to the engine."""

from __future__ import annotations

import logging
import os
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.evaluation import COCOEvaluator
from detectron2.utils import comm

from d2tiny.data.coco.arrays import load_ground_truth
from d2tiny.data.coco.boxes import xyxy_to_xywh
from d2tiny.data.coco.reader import find_ids
from d2tiny.data.datasets import find_source
from d2tiny.evaluation.detections import Detections, write_detections
from d2tiny.evaluation.engine import evaluate_arrays
from d2tiny.evaluation.protocols import Protocol, make_protocol
from d2tiny.evaluation.table import format_table
from d2tiny.utils.errors import DatasetError

__all__ = ["TinyCOCOEvaluator"]

logger = logging.getLogger(__name__)


class TinyCOCOEvaluator(COCOEvaluator):
    """Detectron2's COCOEvaluator with the protocols of tiny-object benchmarks, on arrays.

    Handles thousands of detections per image, ground-truth ids from 0 or missing, and no detections at all. Regions
    with ``ignore`` or ``iscrowd`` are not punished (the AI-TOD reference looks at ``iscrowd`` only; in its files both
    agree). Calling :meth:`evaluate` twice gives the same result (Detectron2's does not). A detection takes 24 bytes
    until the end, and processes gather these arrays.
    """

    def __init__(
        self,
        dataset_name: str,
        *,
        protocol: str | Protocol = "aitod",
        max_dets: Sequence[int] | None = None,
        areas: Mapping[str, Sequence[float]] | None = None,
        extra_ious: Sequence[float] | None = None,
        distributed: bool = True,
        output_dir: str | os.PathLike[str] | None = None,
    ) -> None:
        """Load the ground truth.

        Args:
            dataset_name: a registered dataset.
            protocol: name or :class:`Protocol`.
            max_dets: detections of an image that count, instead of the protocol's (AI-TOD: 1, 100, 1500).
            areas: area bins instead of the protocol's, label → (low, high) in px².
            extra_ious: thresholds whose AP is reported besides, such as 0.25 (``AP25``).
            distributed: gather from all processes.
            output_dir: where ``coco_instances_results.json`` goes; None writes nothing.

        Raises:
            DatasetError: the annotations are missing, or there is no object to evaluate.
            ConfigError: unknown protocol or bad values.
        """
        # The parent's constructor is not called: it reads the json with pycocotools, which stops at things that the
        # loader accepts (a missing id, say).
        self._logger = logger
        self._distributed = distributed
        self._output_dir = str(output_dir) if output_dir is not None else None
        self._cpu_device = torch.device("cpu")
        self.protocol = make_protocol(protocol, max_dets=max_dets, areas=areas, extra_ious=extra_ious)
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
        self._truth.require_objects(self._metadata.json_file)
        self.reset()

    def reset(self) -> None:
        """Forget all predictions."""
        self._ids: list[int] = []
        self._arrays: list[np.ndarray] = []

    def process(self, inputs: Sequence[Mapping[str, Any]], outputs: Sequence[Mapping[str, Any]]) -> None:
        """Store the predictions of some images: XYWH, score, class in float32, as the model gave them."""
        for source, output in zip(inputs, outputs, strict=True):
            found = output["instances"].to(self._cpu_device)
            boxes = xyxy_to_xywh(found.pred_boxes.tensor.detach().float().numpy())
            columns = (boxes, found.scores.detach().float().numpy()[:, None], found.pred_classes.numpy()[:, None])
            self._ids.append(int(source["image_id"]))
            self._arrays.append(np.concatenate(columns, axis=1, dtype=np.float32))

    def evaluate(self, img_ids: Sequence[int] | None = None) -> dict[str, dict[str, float]]:
        """Gather and evaluate; the stored predictions are not modified.

        Args:
            img_ids: evaluate these images only.

        Returns:
            ``{"bbox": metrics}`` in the main process, an empty dict in the others.
        """
        ids = np.array(self._ids, dtype=np.int64)
        counts = np.array([len(a) for a in self._arrays], dtype=np.int64)
        rows = np.concatenate([np.zeros((0, 6), np.float32), *self._arrays])
        if self._distributed:
            comm.synchronize()
            # One array of each process: a list of dicts would take fifteen times the memory.
            gathered = comm.gather((ids, counts, rows), dst=0)
            if not comm.is_main_process():
                return {}
            ids, counts, rows = (np.concatenate(part) for part in zip(*gathered, strict=True))
            del gathered
        return OrderedDict(bbox=self._evaluate(ids, counts, rows, img_ids))

    def _evaluate(
        self, ids: np.ndarray, counts: np.ndarray, rows: np.ndarray, img_ids: Sequence[int] | None
    ) -> dict[str, float]:
        truth = self._truth if img_ids is None else self._truth.with_images(img_ids)
        if img_ids is not None:
            wanted = np.isin(ids, truth.image_ids)
            rows = rows[np.repeat(wanted, counts)]
            ids, counts = ids[wanted], counts[wanted]
        _, first = np.unique(ids, return_index=True)
        if len(first) < len(ids):  # samplers of several processes may repeat images to fill up
            once = np.isin(np.arange(len(ids)), first)
            rows = rows[np.repeat(once, counts)]
            ids, counts = ids[once], counts[once]
        category = self._dataset_categories(rows[:, 5].astype(np.int64))
        known = category >= 0  # a class that this json does not list has no objects here: it does not count
        found = Detections(
            np.repeat(find_ids(truth.image_ids, ids, "predicted images"), counts)[known],
            category[known],
            rows[known, :4].astype(np.float64),
            rows[known, 4].astype(np.float64),
        )
        if self._output_dir:
            target = Path(self._output_dir)
            target.mkdir(parents=True, exist_ok=True)
            write_detections(target / "coco_instances_results.json", truth, found)
        results = evaluate_arrays(truth, found, self.protocol).metrics()
        self._logger.info(
            "%s (%s protocol, %d images, %d detections), in percent; oLRP is an error, lower is better\n%s",
            self._metadata.name,
            self.protocol.name,
            len(ids),
            len(found),
            format_table(results),
        )
        return results

    def _dataset_categories(self, contiguous: np.ndarray) -> np.ndarray:
        """Index into the truth's classes of each predicted class, or -1.

        Raises:
            DatasetError: the model has more classes than the dataset.
        """
        number = len(self._metadata.thing_classes)
        if len(contiguous) and contiguous.max() >= number:
            raise DatasetError(
                f"The model predicts class {contiguous.max()}, but {self._metadata.name} has {number} classes. "
                f"Set num_classes={number} in the model: model.roi_heads, model.head or, in transformers, model itself."
            )
        ids = self._truth.category_ids.tolist()
        id_map = getattr(self._metadata, "thing_dataset_id_to_contiguous_id", {i: n for n, i in enumerate(ids)})
        table = np.full(number, -1, dtype=np.int32)
        for place, dataset_id in enumerate(ids):
            if dataset_id in id_map:
                table[id_map[dataset_id]] = place
        return table[contiguous]
