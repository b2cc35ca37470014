"""Check a COCO json and its images: one list of findings, and a clean copy."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from PIL import Image
from tqdm import tqdm

from d2tiny.data.coco.boxes import box_problem, clip_box, fitting_area, is_ignored, overhang, read_box, xywh_to_xyxy
from d2tiny.data.coco.document import COCO_LISTS, REGION_KEYS, hashable, normalise_keys, read_regions, without_nan
from d2tiny.data.coco.findings import Findings
from d2tiny.data.coco.source import relative_name
from d2tiny.data.loading.headers import IMAGE_SUFFIXES, image_problem
from d2tiny.utils.errors import ConfigError
from d2tiny.utils.files import read_json

__all__ = ["CheckResult", "check_dataset", "check_json"]

_NEAR = 0.9  # IoU from which two boxes of a class are probably one object
_CLIPPED = 0.01  # px over the image border from which a box is clipped: files round their numbers


@dataclass(frozen=True)
class CheckResult:
    """What the check of a dataset found.

    Attributes:
        findings: all problems.
        clean: a COCO dict without the broken parts: boxes clipped, ids unique, duplicates removed.
    """

    findings: Findings
    clean: dict[str, Any]


def check_json(path: Path, images: Path | None, *, decode: bool = False, progress: bool = True) -> CheckResult:
    """Check a COCO json.

    Args:
        path: the json; it is not modified.
        images: folder that ``file_name`` is relative to; None skips the images.
        decode: decode every image, which also finds damage in the middle of the pixel data (seconds per thousand
            images).
        progress: show a progress bar.

    Raises:
        DatasetError: the file is no COCO detection json.
        ConfigError: the image folder does not exist.
    """
    if images is not None and not images.is_dir():
        raise ConfigError(f"--images {images}: no such folder.")
    findings = Findings()
    data = normalise_keys(read_json(path), path, findings)
    return check_dataset(data, images, findings, decode=decode, progress=progress)


def check_dataset(
    data: dict[str, Any],
    root: Path | None,
    findings: Findings | None = None,
    *,
    decode: bool = False,
    progress: bool = True,
) -> CheckResult:
    """Check a COCO dict.

    Args:
        data: with ``images, annotations, categories``; it is not modified.
        root: folder that ``file_name`` is relative to; None skips the images.
        findings: earlier findings, such as a converter's, to add to.
        decode: see :func:`check_json`.
        progress: show a progress bar.
    """
    found = Findings() if findings is None else findings
    categories = _categories(data["categories"], found)
    images = _images(data["images"], found)
    if root is not None:
        images = _image_files(images, root, found, decode, progress)
    annotations = _annotations(data["annotations"], images, categories, found)
    _check_totals(images, categories, annotations, found)
    others = without_nan({k: v for k, v in data.items() if k not in COCO_LISTS}, "the file", found)
    clean = {
        **others,
        "images": list(images.values()),
        "annotations": annotations,
        "categories": list({hashable(c["id"]): c for c in categories.values()}.values()),
    }
    return CheckResult(found, clean)


def _is_number(key: Any) -> bool:
    """Return whether the loader accepts it as the id of a category; ``"4"`` counts."""
    try:
        return float(key) == int(key)
    except (TypeError, ValueError, OverflowError):
        return False


def _same_number(key: Any, earlier: set[Any]) -> bool:
    """Return whether both 5 and "5" occur, which are one id for the loader."""
    other = str(key) if isinstance(key, int | float) else int(key) if str(key).isdecimal() else None
    return other in earlier


def _entries(entries: list[dict[str, Any]], what: str, found: Findings) -> Iterator[tuple[Any, dict[str, Any]]]:
    """Yield the id and the entry of all entries with an id; of those that share one, only the first."""
    earlier: set[Any] = set()
    for number, entry in enumerate(entries):
        if entry.get("id") is None:
            found.add(f"{what} without an id, left out", f"number {number}: {str(entry)[:80]}", "error")
            continue
        key = hashable(entry["id"])
        if what == "categories" and not _is_number(key):
            found.add("categories whose id is no number, left out", f"id {key}", "error")
            continue
        if key in earlier or _same_number(key, earlier):
            found.add(f"{what} with the id of another, left out", f"id {key}", "error")
            continue
        earlier.add(key)
        yield key, entry


def _categories(entries: list[dict[str, Any]], found: Findings) -> dict[Any, dict[str, Any]]:
    """Return the category of each id; ids of categories that share a name lead to the first of them."""
    result = {}
    names: dict[str, Any] = {}
    entries_by_name: dict[str, Any] = {}
    for key, entry in _entries(entries, "categories", found):
        name = str(entry.get("name") or "").strip()
        if not name:
            found.add("categories without a name, left out", f"id {key}", "error")
            continue
        if name != entry["name"]:
            found.add("category names with blanks around them", repr(entry["name"]))
        if name in names:
            found.add("categories with the name of another", f"'{name}': ids {names[name]} and {key}", "error")
        names.setdefault(name, key)
        result[key] = {**entry, "id": entries_by_name.setdefault(name, entry["id"]), "name": name}
    return result


def _images(entries: list[dict[str, Any]], found: Findings) -> dict[Any, dict[str, Any]]:
    result = {}
    names: dict[str, Any] = {}
    for key, entry in _entries(entries, "images", found):
        given, size = entry.get("file_name"), (entry.get("width"), entry.get("height"))
        name = str(relative_name(given))
        if not given:
            found.add("images without a file name, left out", f"id {key}", "error")
        elif relative_name(given) is None:
            found.add("file names that leave the image folder, left out", f"id {key}: {given}", "error")
        elif not all(isinstance(v, int) and v > 0 for v in size):
            found.add("images without a valid width and height, left out", f"{name}: {size}", "error")
        elif name in names:
            found.add("images listed twice, left out", f"{name}: ids {names[name]} and {key}", "error")
        else:
            names[name] = key
            result[key] = {**_with_regions(entry, found), "file_name": name}
    return result


def _with_regions(entry: dict[str, Any], found: Findings) -> dict[str, Any]:
    """Return the entry with those of its ignored boxes that can be used."""
    size, result = (entry["width"], entry["height"]), dict(entry)
    for key in REGION_KEYS:
        if key not in entry:
            continue
        if entry[key] is None:
            found.add("boxes that are not four numbers, left out", f"image {entry['id']}, {key}: None")
        result[key] = []
        for box in read_regions(entry, key, found):
            problem = box_problem(box, size)
            if problem:
                found.add(f"{problem}, left out", f"image {entry['id']}, {key}: {list(box)}")
            else:
                result[key].append(list(box))
    return without_nan(result, f"image {entry['id']}", found)


def _decoding_problem(path: Path) -> str | None:
    try:
        with Image.open(path) as image:
            image.load()
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as err:
        return f"damaged ({err})"
    return None


def _image_files(
    images: dict[Any, dict[str, Any]], root: Path, found: Findings, decode: bool, progress: bool
) -> dict[Any, dict[str, Any]]:
    """Return the images whose file can be used; also count files that the json does not list."""

    def file_problem(image: dict[str, Any]) -> str | None:
        path = root / image["file_name"]
        problem = image_problem(str(path), image["width"], image["height"])
        return problem or (_decoding_problem(path) if decode else None)

    kept = {}
    with ThreadPoolExecutor(8) as pool:
        problems = tqdm(
            pool.map(file_problem, images.values()), total=len(images), desc="images", disable=not progress, leave=False
        )
        for (key, image), problem in zip(images.items(), problems, strict=True):
            if problem is None:
                kept[key] = image
                continue
            kind = problem.split(" (")[0] if " px, but" not in problem else "of another size than stated"
            found.add(f"images {kind}, left out", f"{root / image['file_name']}: {problem}", "error")
    listed = {image["file_name"] for image in images.values()}
    for folder in sorted({str(PurePosixPath(name).parent) for name in listed}):
        if not (root / folder).is_dir():
            continue
        for file in sorted((root / folder).iterdir()):
            name = file.relative_to(root).as_posix()
            if file.suffix.lower() in IMAGE_SUFFIXES and name not in listed:
                found.add("image files that the json does not list", name, "note")
    return kept


def _annotations(
    entries: list[dict[str, Any]], images: dict[Any, Any], categories: dict[Any, Any], found: Findings
) -> list[dict[str, Any]]:
    """Return the usable annotations, with clipped boxes, and with new ids if any was missing or used twice."""
    kept: list[dict[str, Any]] = []
    ids = Counter(hashable(entry["id"]) for entry in entries if entry.get("id") is not None)
    for number, entry in enumerate(entries):
        where = f"annotation {entry.get('id', f'number {number}')} of image {entry.get('image_id')}"
        if entry.get("id") is None:
            found.add("annotations without an id", where, "note")
        elif ids[hashable(entry["id"])] > 1:
            found.add("annotations with the id of another", where)
        image = images.get(hashable(entry.get("image_id")))
        if image is None:
            found.add("annotations of an unknown image, left out", where)
            continue
        if hashable(entry.get("category_id")) not in categories:
            found.add("annotations of unknown classes, left out", f"{where}: {entry.get('category_id')}", "error")
            continue
        box = read_box(entry.get("bbox"))
        clipped = box if isinstance(box, str) else clip_box(box, (image["width"], image["height"]))
        if isinstance(box, str) or isinstance(clipped, str):
            found.add(f"{clipped}, left out", f"{where}: {entry.get('bbox')}", "error")
            continue
        entry = {**entry, "category_id": categories[hashable(entry["category_id"])]["id"]}
        kept.append(_repaired(entry, box, clipped, image, where, found))
    kept = _without_duplicates(kept, found)
    if len(ids) < len(entries):
        kept = [{**entry, "id": i} for i, entry in enumerate(kept, start=1)]
    return kept


def _repaired(
    entry: dict[str, Any], box: list[float], clipped: list[float], image: dict[str, Any], where: str, found: Findings
) -> dict[str, Any]:
    """Return one annotation with its box inside the image and an area that fits."""
    w, h = box[2:]
    area = fitting_area(entry, w, h)
    if overhang(box, (image["width"], image["height"])) > _CLIPPED:
        found.add("boxes over the image border, clipped", f"{where}: {entry['bbox']}")
        box = clipped
    if min(w, h) < 1:
        found.add("boxes with a side under 1 px", f"{where}: {entry['bbox']}", "note")
    if w * h > 0.9 * image["width"] * image["height"]:
        found.add("boxes as large as their image", f"{where}: {entry['bbox']}", "note")
    if area is None:
        area = box[2] * box[3]
        if entry.get("area") is None:
            found.add("annotations without an area, replaced by width x height", where, "note")
        else:
            kind = "areas that do not fit their box, replaced by width x height"
            found.add(kind, f"{where}: {entry['area']} for {entry['bbox']}")
    area = min(area, box[2] * box[3])
    if "ignore" in entry and bool(entry["ignore"]) != bool(entry.get("iscrowd", 0)):
        found.add("annotations whose ignore and iscrowd disagree", where, "note")
    ignored = int(is_ignored(entry))
    standard = {"bbox": box, "area": area, "iscrowd": ignored, "ignore": ignored}
    others = {k: v for k, v in entry.items() if k not in standard}
    return {**without_nan(others, where, found), **standard}


def _without_duplicates(entries: list[dict[str, Any]], found: Findings) -> list[dict[str, Any]]:
    """Return the entries without boxes that repeat another of their class exactly; near repetitions stay."""
    groups: dict[tuple[Any, Any, int], list[int]] = defaultdict(list)
    for i, entry in enumerate(entries):
        groups[hashable(entry["image_id"]), hashable(entry["category_id"]), entry["iscrowd"]].append(i)
    dropped: set[int] = set()
    for (image, _, _), members in groups.items():
        boxes = np.array([entries[i]["bbox"] for i in members], dtype=np.float64)
        low, high = np.split(xywh_to_xyxy(boxes), 2, axis=1)
        for j in range(1, len(members)):  # one row at a time: a matrix for 2,000 objects would be large
            sides = (np.minimum(high[j], high[:j]) - np.maximum(low[j], low[:j])).clip(0)
            inter = sides.prod(axis=1)
            iou = inter / (boxes[j, 2:].prod() + boxes[:j, 2:].prod(axis=1) - inter)
            where = f"image {image}: {entries[members[j]]['bbox']}"
            if (boxes[:j] == boxes[j]).all(axis=1).any():
                found.add("boxes that repeat another of their class, once kept", where)
                dropped.add(members[j])
            elif (iou >= _NEAR).any():
                found.add(f"boxes that nearly repeat another of their class (IoU >= {_NEAR})", where, "note")
    return [entry for i, entry in enumerate(entries) if i not in dropped]


def _check_totals(
    images: dict[Any, Any], categories: dict[Any, Any], annotations: list[dict[str, Any]], found: Findings
) -> None:
    used = {hashable(a["category_id"]) for a in annotations}
    for category in {hashable(c["id"]): c for c in categories.values()}.values():
        if hashable(category["id"]) not in used:
            found.add("classes without an object", category["name"], "note")
    with_objects = {hashable(a["image_id"]) for a in annotations}
    empty = [image["file_name"] for key, image in images.items() if key not in with_objects]
    if empty:
        found.add("images without an object", empty[0], "note", len(empty))
    if not images:
        found.add("no image is left", "nothing to train on", "error")
    elif not annotations:
        found.add("no object is left", "nothing to learn", "error")
