"""Check dataset dicts that a user's own function made (``DatasetCatalog.register``), before they are trained on."""

from __future__ import annotations

import logging
import numbers
from collections.abc import Sequence
from typing import Any

import numpy as np
from detectron2.structures import BoxMode

from d2tiny.data.coco.boxes import BOX_PROBLEMS, box_xyxy_to_xywh, has_area, read_box
from d2tiny.data.coco.entries import shown
from d2tiny.data.coco.findings import Findings
from d2tiny.data.coco.values import parse_size
from d2tiny.utils.errors import DatasetError

__all__ = ["check_records"]

logger = logging.getLogger(__name__)

_MODES = (BoxMode.XYXY_ABS, BoxMode.XYWH_ABS)
_EXPECTED = (
    "A record has file_name, height and width (px) and annotations; an annotation has bbox (four finite numbers), "
    "bbox_mode (BoxMode.XYXY_ABS or BoxMode.XYWH_ABS), category_id (from 0 to {last}, an index into thing_classes) "
    "and, if it is ignored, iscrowd 1."
)
Record = dict[str, Any]


def check_records(records: Any, classes: Sequence[str], name: str) -> list[Record]:
    """Return Detectron2 dataset dicts without the boxes that have no area, which are counted and logged.

    Args:
        records: what the function of a registered dataset returned; not modified.
        classes: K class names.
        name: of the dataset, for messages.

    Raises:
        DatasetError: a record or an annotation that cannot be learned from: no file name or size, a box that is not
            four finite numbers, no ``bbox_mode``, a category outside 0 to K - 1; counts them and says what is allowed.
    """
    if not isinstance(records, list):
        raise DatasetError(f"'{name}': its function must return a list of dicts, not {type(records).__name__}.")
    wrong, empty = Findings(), Findings()
    for i, record in enumerate(records):
        _check_record(record, f"record {i}", wrong)
    if not wrong:
        records = [_checked_annotations(r, f"record {i}", len(classes), wrong, empty) for i, r in enumerate(records)]
    if wrong:
        raise DatasetError(f"'{name}': {wrong}. {_EXPECTED.format(last=len(classes) - 1)}")
    empty.log(logger, f"'{name}'")
    return records


def _check_record(record: Any, where: str, wrong: Findings) -> None:
    if not isinstance(record, dict):
        wrong.add("records that are no dicts", f"{where}: {shown(record)}")
        return
    name = record.get("file_name")
    if not name or not isinstance(name, str):
        wrong.add("records without a file_name", f"{where}: {shown(name)}")
    for side in ("height", "width"):
        given = record.get(side)
        if isinstance(given, str) or parse_size(given) is None:
            wrong.add(f"records without a {side} in px", f"{where}: {shown(given)}")
    if not isinstance(record.get("annotations", []), list | tuple):
        wrong.add("records whose annotations are no list", f"{where}: {shown(record['annotations'])}")


def _checked_annotations(record: Record, where: str, classes: int, wrong: Findings, empty: Findings) -> Record:
    """Return a record with the annotations that have an area; the others and wrong ones are counted."""
    if "annotations" not in record:
        return record
    kept = []
    for j, annotation in enumerate(record["annotations"]):
        here = f"{where} ({shown(record['file_name'])}), annotation {j}"
        problem = _annotation_problem(annotation, classes)
        if problem is not None:
            kind, given = problem
            wrong.add(kind, f"{here}: {shown(given)}")
        elif has_area(_xywh(annotation)):
            kept.append(annotation)
        else:
            empty.add("boxes without area, left out", f"{here}: {shown(annotation['bbox'])}")
    return record if len(kept) == len(record["annotations"]) else {**record, "annotations": kept}


def _annotation_problem(annotation: Any, classes: int) -> tuple[str, Any] | None:
    """Return the kind of an annotation's problem and the value that has it, or None."""
    if not isinstance(annotation, dict):
        return "annotations that are no dicts", annotation
    given = annotation.get("bbox")
    numeric = isinstance(given, list | tuple | np.ndarray) and not any(isinstance(v, str) for v in given)
    box = read_box(given) if numeric else BOX_PROBLEMS[0]
    if isinstance(box, str):
        return box, given
    if annotation.get("bbox_mode") not in _MODES:
        return "annotations whose bbox_mode is missing or none of XYXY_ABS, XYWH_ABS", annotation.get("bbox_mode")
    category = annotation.get("category_id")
    if isinstance(category, bool) or not isinstance(category, numbers.Integral) or not 0 <= int(category) < classes:
        return f"category ids that are no index of the {classes} thing_classes", category
    ignored = annotation.get("iscrowd", 0)
    return None if type(ignored) in (int, bool) and ignored in (0, 1) else ("iscrowd that is neither 0 nor 1", ignored)


def _xywh(annotation: dict[str, Any]) -> Sequence[float]:
    box = annotation["bbox"]
    return box if annotation["bbox_mode"] == BoxMode.XYWH_ABS else box_xyxy_to_xywh(box)
