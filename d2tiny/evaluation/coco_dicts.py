"""Evaluation of COCO-style dicts in memory."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from d2tiny.data.coco.arrays import ground_truth_from_dict
from d2tiny.evaluation.detections import detections_from_dicts
from d2tiny.evaluation.engine import evaluate_arrays
from d2tiny.evaluation.protocols import Protocol, get_protocol

__all__ = ["evaluate_detections"]


def evaluate_detections(
    dataset: Mapping[str, Any],
    detections: Sequence[Mapping[str, Any]],
    protocol: str | Protocol = "aitod",
    img_ids: Sequence[int] | None = None,
) -> dict[str, float]:
    """Evaluate COCO-style detections against a COCO-style ground truth.

    Args:
        dataset: with ``images, categories, annotations``; ``iscrowd`` or ``ignore`` marks ignore regions. Not modified.
        detections: ``image_id, category_id, bbox`` (XYWH), ``score``; not modified.
        protocol: areas, limits, thresholds.
        img_ids: evaluate these images only.

    Returns:
        As :meth:`d2tiny.evaluation.EvaluationResult.metrics`: percent; NaN where there is no ground truth, 0 where
        there is no detection. Difference from pycocotools with the same parameters: a ground truth with id 0 counts.
    """
    truth = ground_truth_from_dict(dataset)
    if img_ids is not None:
        truth = truth.with_images(img_ids)
        wanted = set(truth.image_ids.tolist())
        detections = [d for d in detections if d["image_id"] in wanted]
    return evaluate_arrays(truth, detections_from_dicts(truth, detections), get_protocol(protocol)).metrics()
