"""The json document of a COCO dataset as Python dicts: its outline, its ids, and what odd files write otherwise."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from d2tiny.data.coco.boxes import read_box
from d2tiny.data.coco.findings import Findings
from d2tiny.utils.errors import DatasetError
from d2tiny.utils.files import read_json

__all__ = [
    "COCO_LISTS",
    "REGION_KEYS",
    "category_numbers",
    "hashable",
    "image_numbers",
    "normalise_keys",
    "objects_only",
    "read_coco_json",
    "read_regions",
    "without_nan",
]

COCO_LISTS = ("images", "annotations", "categories")
# Lists of XYWH boxes that an image may have besides its annotations. Both hold for all classes and are neither learned
# nor evaluated; ``ignored_regions`` are areas without labels, ``ignored_boxes`` single objects of no class.
REGION_KEYS = ("ignored_regions", "ignored_boxes")

# Keys that exporters write, and COCO's own.
_LIST_KEYS = {"annotation": "annotations", "image": "images", "category": "categories"}
_IMAGE_KEYS = {"filename": "file_name", "image_name": "file_name", "name": "file_name"}


def read_coco_json(path: Path) -> dict[str, Any]:
    """Read a COCO json and check its outline.

    Raises:
        DatasetError: not json (says line and column), or a key is missing.
    """
    return _with_lists(_as_object(read_json(path), path), path)


def _as_object(data: Any, path: Path) -> dict[str, Any]:
    if not isinstance(data, dict):
        raise DatasetError(f"{path}: expected a COCO object with images, annotations, categories.")
    return data


def _with_lists(data: dict[str, Any], path: Path) -> dict[str, Any]:
    for key in COCO_LISTS:
        if not isinstance(data.get(key), list):
            raise DatasetError(f"{path}: the list '{key}' is missing; this is not a COCO detection json.")
    return data


def objects_only(entries: Sequence[Any], key: str, findings: Findings) -> list[dict[str, Any]]:
    """Return the entries of a list that are json objects; others are counted."""
    objects = [entry for entry in entries if isinstance(entry, dict)]
    if len(objects) < len(entries):
        findings.add("entries that are no objects, left out", key, count=len(entries) - len(objects))
    return objects


def normalise_keys(data: Any, path: Path, findings: Findings) -> dict[str, Any]:
    """Return a COCO dict with COCO's own keys, whose lists hold objects only.

    Args:
        data: content of the json; not modified.
        path: of the json, for messages.
        findings: gets the keys that were renamed and the entries that were left out.

    Raises:
        DatasetError: it is no COCO detection json.
    """
    result = dict(_as_object(data, path))
    for odd, key in _LIST_KEYS.items():
        if key not in result and odd in result:
            findings.add("keys that COCO names otherwise", f"'{odd}' for '{key}'", "note")
            result[key] = result.pop(odd)
    _with_lists(result, path)
    for key in COCO_LISTS:
        result[key] = objects_only(result[key], key, findings)
    result["images"] = [_with_file_name(image, findings) for image in result["images"]]
    return result


def _with_file_name(image: dict[str, Any], findings: Findings) -> dict[str, Any]:
    """Return an image whose file name has COCO's key."""
    odd = next((key for key in _IMAGE_KEYS if key in image), None)
    if "file_name" in image or odd is None:
        return image
    findings.add("keys that COCO names otherwise", f"'{odd}' for '{_IMAGE_KEYS[odd]}'", "note")
    return {**{k: v for k, v in image.items() if k != odd}, "file_name": image[odd]}


def without_nan(entry: Mapping[str, Any], where: str, findings: Findings) -> dict[str, Any]:
    """Return the keys whose values a json can hold; NaN and infinity are no json, their keys are counted."""
    kept = {}
    for key, value in entry.items():
        if _finite(value):
            kept[key] = value
        else:
            findings.add("other keys with NaN or infinity, left out", f"{where}: {key}")
    return kept


def _finite(value: Any) -> bool:
    if isinstance(value, float):
        return math.isfinite(value)
    if isinstance(value, list | tuple):
        return all(map(_finite, value))
    return all(map(_finite, value.values())) if isinstance(value, dict) else True


def hashable(value: Any) -> Any:
    """Return an id as a key of a dict, whatever the file holds: lists and objects become text."""
    return value if value is None or isinstance(value, int | str | float) else repr(value)


def _number(value: Any) -> int:
    """Return an id as an integer; ``"0012"`` counts."""
    if isinstance(value, bool) or (isinstance(value, float) and value != int(value)):
        raise ValueError(f"{value!r} is no id")
    return int(value)


def image_numbers(images: Sequence[Mapping[str, Any]], path: Path) -> dict[Any, int]:
    """Map the image ids of a json to integers: themselves where all are numbers, else their position from 1.

    Raises:
        DatasetError: an id is missing or occurs twice.
    """
    try:
        ids = [image["id"] for image in images]
        hash(tuple(ids))
    except TypeError as err:
        raise DatasetError(f"{path}: an image id is neither a number nor a text ({err}).") from err
    except KeyError as err:
        raise DatasetError(f"{path}: an image has no {err}.") from err
    try:
        numbers = {raw: _number(raw) for raw in ids}
    except (TypeError, ValueError):
        numbers = {raw: i for i, raw in enumerate(dict.fromkeys(ids), start=1)}
    counts = Counter(numbers[raw] for raw in ids)
    twice = [raw for raw in ids if counts[numbers[raw]] > 1]
    if twice:
        raise DatasetError(f"{path}: image id {twice[0]!r} occurs twice.")
    return numbers


def category_numbers(categories: Sequence[Mapping[str, Any]], path: Path) -> dict[Any, int]:
    """Map the category ids of a json to integers.

    Raises:
        DatasetError: an id is missing, no number, or occurs twice; or a name is missing.
    """
    try:
        numbers = {c["id"]: _number(c["id"]) for c in categories}
        [c["name"] for c in categories]
    except KeyError as err:
        raise DatasetError(f"{path}: a category has no {err}.") from err
    except (TypeError, ValueError) as err:
        raise DatasetError(f"{path}: a category id is no number: {err}.") from err
    if len(set(numbers.values())) != len(categories):
        raise DatasetError(f"{path}: two categories share an id.")
    return numbers


def read_regions(image: Mapping[str, Any], key: str, findings: Findings) -> list[tuple[float, float, float, float]]:
    """Return an image's XYWH boxes under a key of :data:`REGION_KEYS`; those that are no boxes are counted."""
    boxes = image.get(key)
    result = []
    for value in boxes if isinstance(boxes, list) else []:
        box = read_box(value)
        if isinstance(box, str):
            findings.add(f"{box}, left out", f"image {image.get('id')}, {key}: {value}")
        else:
            result.append((box[0], box[1], box[2], box[3]))
    if boxes is not None and not isinstance(boxes, list):
        findings.add("boxes that are not four numbers, left out", f"image {image.get('id')}, {key}: {boxes}")
    return result
