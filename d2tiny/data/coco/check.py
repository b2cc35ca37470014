"""One report of everything that is wrong in a COCO json and its images, and a clean copy."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from PIL import Image
from tqdm import tqdm

from d2tiny.data.coco.findings import Findings
from d2tiny.data.coco.records import (
    REGION_KEYS,
    fitting_area,
    hashable,
    is_ignored,
    read_box,
    read_regions,
    relative_name,
)
from d2tiny.data.loading.headers import check_image
from d2tiny.data.tools.converters.base import IMAGE_SUFFIXES, box_problem
from d2tiny.data.tools.converters.coco import normalise_keys, without_nan
from d2tiny.utils.errors import ConfigError
from d2tiny.utils.files import read_json

__all__ = ["Checked", "check_dataset", "check_json"]

_NEAR = 0.9  # IoU from which two boxes of a class are probably one object


class Checked:
    """A checked dataset.

    Attributes:
        findings: everything that was found.
        clean: a COCO dict without the broken parts: boxes clipped, ids unique, duplicates once.
    """

    def __init__(self) -> None:
        self.findings = Findings()
        self.clean: dict[str, Any] = {}


def check_json(path: Path, images: Path | None, *, decode: bool = False, progress: bool = True) -> Checked:
    """Check a COCO json.

    Args:
        path: the json; never modified.
        images: folder that ``file_name`` is relative to; None does not look at images.
        decode: decode every image, which finds damage in the middle of the pixel data too (seconds per thousand).
        progress: show a bar.

    Raises:
        DatasetError: the file is no COCO detection json at all.
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
) -> Checked:
    """Check a COCO dict; arguments as in :func:`check_json`, and ``findings`` to add to."""
    result = Checked()
    if findings is not None:
        result.findings = findings
    found = result.findings
    categories = _categories(data["categories"], found)
    images = _images(data["images"], found)
    if root is not None:
        images = _image_files(images, root, found, decode, progress)
    annotations = _annotations(data["annotations"], images, categories, found)
    _overall(images, categories, annotations, found)
    others = {k: v for k, v in data.items() if k not in ("images", "annotations", "categories")}
    others = without_nan(others, "the file", found)
    result.clean = {
        **others,
        "images": list(images.values()),
        "annotations": annotations,
        "categories": list({hashable(c["id"]): c for c in categories.values()}.values()),
    }
    return result


def _is_number(key: Any) -> bool:
    """Whether the loader takes it for the id of a category; ``"4"`` counts."""
    try:
        return float(key) == int(key)
    except (TypeError, ValueError, OverflowError):
        return False


def _same_number(key: Any, seen: set[Any]) -> bool:
    """Whether 5 and "5" meet, which the loader takes for one id."""
    other = str(key) if isinstance(key, int | float) else int(key) if str(key).isdecimal() else None
    return other in seen


def _entries(entries: list[dict[str, Any]], what: str, found: Findings) -> Iterator[tuple[Any, dict[str, Any]]]:
    """Entries with an id that no other has; of those that share one, the first."""
    seen: set[Any] = set()
    for number, entry in enumerate(entries):
        if entry.get("id") is None:
            found.add(f"{what} without an id, left out", f"number {number}: {str(entry)[:80]}", "error")
            continue
        key = hashable(entry["id"])
        if what == "categories" and not _is_number(key):
            found.add("categories whose id is no number, left out", f"id {key}", "error")
            continue
        if key in seen or _same_number(key, seen):
            found.add(f"{what} with the id of another, left out", f"id {key}", "error")
            continue
        seen.add(key)
        yield key, entry


def _categories(entries: list[dict[str, Any]], found: Findings) -> dict[Any, dict[str, Any]]:
    """Category of each id; ids of one name lead to the first."""
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
    """The entry with those of its ignored boxes that are boxes in the image."""
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
                found.add(problem, f"image {entry['id']}, {key}: {list(box)}")
            else:
                result[key].append(list(box))
    return without_nan(result, f"image {entry['id']}", found)


def _decode(path: Path) -> str | None:
    try:
        with Image.open(path) as image:
            image.load()
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as err:
        return f"damaged ({err})"
    return None


def _image_files(
    images: dict[Any, dict[str, Any]], root: Path, found: Findings, decode: bool, progress: bool
) -> dict[Any, dict[str, Any]]:
    """Look at every file; keeps the images that can be used."""

    def look(image: dict[str, Any]) -> str | None:
        path = root / image["file_name"]
        problem = check_image(str(path), image["width"], image["height"])
        return problem or (_decode(path) if decode else None)

    kept = {}
    with ThreadPoolExecutor(8) as pool:
        problems = tqdm(
            pool.map(look, images.values()), total=len(images), desc="images", disable=not progress, leave=False
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
    """The usable annotations, with clipped boxes and new ids where these were missing or used twice."""
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
        box = read_box(entry)
        problem = box if isinstance(box, str) else box_problem(box, (image["width"], image["height"]))
        if problem is not None or isinstance(box, str):
            text = str(problem).removesuffix(", left out")
            found.add(f"{text}, left out", f"{where}: {entry.get('bbox')}", "error")
            continue
        entry = {**entry, "category_id": categories[hashable(entry["category_id"])]["id"]}
        kept.append(_mended(entry, box, image, where, found))
    kept = _without_duplicates(kept, found)
    if len(ids) < len(entries):
        kept = [{**entry, "id": i} for i, entry in enumerate(kept, start=1)]
    return kept


def _mended(
    entry: dict[str, Any], box: list[float], image: dict[str, Any], where: str, found: Findings
) -> dict[str, Any]:
    """One annotation with its box inside the image and an area that fits."""
    x, y, w, h = box
    x1, y1, x2, y2 = max(x, 0.0), max(y, 0.0), min(x + w, image["width"]), min(y + h, image["height"])
    area = fitting_area(entry, w, h)
    if max(x1 - x, y1 - y, x + w - x2, y + h - y2) > 0.01:
        found.add("boxes over the image border, clipped", f"{where}: {entry['bbox']}")
        box = [x1, y1, x2 - x1, y2 - y1]
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
    """Drop boxes that repeat another of their class exactly; note those that nearly do."""
    groups: dict[tuple[Any, Any, int], list[int]] = defaultdict(list)
    for i, entry in enumerate(entries):
        groups[hashable(entry["image_id"]), hashable(entry["category_id"]), entry["iscrowd"]].append(i)
    dropped: set[int] = set()
    for (image, _, _), members in groups.items():
        boxes = np.array([entries[i]["bbox"] for i in members], dtype=np.float64)
        low, high = boxes[:, :2], boxes[:, :2] + boxes[:, 2:]
        for j in range(1, len(members)):  # one row at a time: images with 2,000 objects stay small
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


def _overall(
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
