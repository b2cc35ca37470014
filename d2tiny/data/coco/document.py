"""The json document of a COCO dataset as Python dicts: its outline, its ids, and what odd files write otherwise."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from d2tiny.data.coco.entries import shown
from d2tiny.data.coco.findings import Findings
from d2tiny.data.coco.values import parse_id
from d2tiny.utils.errors import DatasetError
from d2tiny.utils.files import read_json

__all__ = [
    "COCO_LISTS",
    "REGION_KEYS",
    "CocoEntries",
    "category_numbers",
    "coco_entries",
    "image_numbers",
    "normalise_keys",
    "objects_only",
    "read_coco_json",
    "read_entries",
    "read_name",
]

COCO_LISTS = ("images", "annotations", "categories")
# Lists of XYWH boxes that an image may have besides its annotations. Both hold for all classes and are neither learned
# nor evaluated; ``ignored_regions`` are areas without labels, ``ignored_boxes`` single objects of no class.
REGION_KEYS = ("ignored_regions", "ignored_boxes")

# Keys that exporters write, and COCO's own.
_LIST_KEYS = {"annotation": "annotations", "image": "images", "category": "categories"}
_IMAGE_KEYS = {"filename": "file_name", "image_name": "file_name", "name": "file_name"}
_FIX = "`d2tiny check` lists all such entries, --fix writes a copy without them."


def read_coco_json(path: Path) -> dict[str, Any]:
    """Read a COCO json and check its outline.

    Raises:
        DatasetError: not json (says line and column), or a key is missing.
    """
    return _with_lists(_as_object(read_json(path), path), path)


def _as_object(data: Any, path: Path | str) -> dict[str, Any]:
    if not isinstance(data, dict):
        raise DatasetError(f"{path}: expected a COCO object with images, annotations, categories.")
    return data


def _with_lists(data: dict[str, Any], path: Path | str) -> dict[str, Any]:
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


def normalise_keys(data: Any, path: Path | str, findings: Findings, *, labelled: bool = True) -> dict[str, Any]:
    """Return a COCO dict with COCO's own keys, whose lists hold objects only.

    Args:
        data: content of the json; not modified.
        path: of the json, for messages.
        findings: gets the keys that were renamed and the entries that were left out.
        labelled: refuse a file without annotations, as COCO's lists of test images are.

    Raises:
        DatasetError: it is no COCO detection json.
    """
    result = dict(_as_object(data, path))
    for odd, key in _LIST_KEYS.items():
        if key not in result and odd in result:
            findings.add("keys that COCO names otherwise", f"'{odd}' for '{key}'", "note")
            result[key] = result.pop(odd)
    if not labelled and result.get("annotations") is None:
        findings.add("files without annotations, read as images only", str(path), "note")
        result["annotations"] = []
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


def read_name(value: Any) -> str | None:
    """Return a category's name without blanks around it, or None; numbers are names, lists and objects are not."""
    if isinstance(value, int) and not isinstance(value, bool):
        value = str(value)
    return value.strip() or None if isinstance(value, str) else None


def image_numbers(images: Sequence[Mapping[str, Any]], path: Path | str) -> dict[int | str, int]:
    """Map image ids, as :func:`~d2tiny.data.coco.values.parse_id` reads them, to integers.

    To themselves where all are numbers, else to their position from 1.

    Raises:
        DatasetError: an id is missing, no id, or occurs twice.
    """
    ids = _ids(images, "image", path)
    if all(isinstance(key, int) for key in ids):
        return {key: key for key in ids if isinstance(key, int)}
    return {key: i for i, key in enumerate(ids, start=1)}


def category_numbers(categories: Sequence[Mapping[str, Any]], path: Path | str) -> dict[int | str, int]:
    """Map category ids, as :func:`~d2tiny.data.coco.values.parse_id` reads them, to integers.

    Raises:
        DatasetError: an id is missing, no number, or occurs twice; or a name is missing.
    """
    ids = _ids(categories, "category", path)
    for key, category in zip(ids, categories, strict=True):
        if not isinstance(key, int):
            advice = "`d2tiny convert coco` writes a copy with numbers"
            raise DatasetError(f"{path}: category id {shown(category['id'])!r} is no number; {advice}.")
        if read_name(category.get("name")) is None:
            given = shown(category["name"]) if "name" in category else "nothing"
            raise DatasetError(f"{path}: category {key} has no 'name' (a text; got {given}).")
    return {key: key for key in ids if isinstance(key, int)}


def _ids(entries: Sequence[Mapping[str, Any]], what: str, path: Path | str) -> list[int | str]:
    """Return the ids of images or categories in the form in which they are compared."""
    result: dict[int | str, None] = {}
    for number, entry in enumerate(entries):
        if entry.get("id") is None:
            raise DatasetError(f"{path}: {what} number {number} has no 'id'. {_FIX}")
        key = parse_id(entry["id"])
        if key is None:
            raise DatasetError(f"{path}: {what} id {shown(entry['id'])} is neither a number nor a text. {_FIX}")
        if key in result and what == "category":
            raise DatasetError(f"{path}: two categories share an id ({shown(entry['id'])}). {_FIX}")
        if key in result:
            raise DatasetError(f"{path}: {what} id {shown(entry['id'])!r} occurs twice. {_FIX}")
        result[key] = None
    return list(result)


@dataclass(frozen=True)
class CocoEntries:
    """The entries of a COCO json that are objects, under COCO's keys, and what their ids mean.

    Attributes:
        images: in the order of the file.
        annotations: likewise; each may be unusable, see :func:`~d2tiny.data.coco.entries.read_annotation`.
        categories: likewise, each with a name.
        image_numbers: see :func:`image_numbers`.
        category_numbers: see :func:`category_numbers`.
        listed: number of the file's annotations, objects or not.
    """

    images: list[dict[str, Any]]
    annotations: list[dict[str, Any]]
    categories: list[dict[str, Any]]
    image_numbers: dict[int | str, int]
    category_numbers: dict[int | str, int]
    listed: int


def read_entries(path: Path, findings: Findings, *, labelled: bool = True) -> CocoEntries:
    """Read the entries of a COCO json leniently.

    Args:
        path: the json.
        findings: gets what was left out or is named otherwise.
        labelled: refuse a file without annotations.

    Raises:
        DatasetError: the file is missing or unusable as a whole; the message names it.
    """
    return coco_entries(read_json(path), path, findings, labelled=labelled)


def coco_entries(data: Any, path: Path | str, findings: Findings, *, labelled: bool = True) -> CocoEntries:
    """Convert the content of a json likewise; ``path`` is for messages."""
    known = normalise_keys(data, path, findings, labelled=labelled)
    listed = [len(data[key]) for key in ("annotations", "annotation") if isinstance(data.get(key), list)]
    return CocoEntries(
        known["images"],
        known["annotations"],
        known["categories"],
        image_numbers=image_numbers(known["images"], path),
        category_numbers=category_numbers(known["categories"], path),
        listed=max(listed, default=0),
    )
