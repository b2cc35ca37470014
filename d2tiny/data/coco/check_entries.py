"""Check the categories and images of a COCO json."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePosixPath
from typing import Any

from tqdm import tqdm

from d2tiny.data.coco.boxes import box_problem
from d2tiny.data.coco.document import REGION_KEYS, hashable, read_regions, without_nan
from d2tiny.data.coco.findings import Findings
from d2tiny.data.coco.source import relative_name
from d2tiny.data.loading.headers import IMAGE_SUFFIXES, decoding_problem, image_problem
from d2tiny.data.loading.stretch import StretchLike

__all__ = ["checked_categories", "checked_images", "images_with_usable_files"]


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


def checked_categories(entries: list[dict[str, Any]], found: Findings) -> dict[Any, dict[str, Any]]:
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


def checked_images(entries: list[dict[str, Any]], found: Findings) -> dict[Any, dict[str, Any]]:
    """Return the usable image entry of each id, with its usable ignored regions."""
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


def images_with_usable_files(
    images: dict[Any, dict[str, Any]],
    root: Path,
    found: Findings,
    decode: bool,
    progress: bool,
    stretch: StretchLike = None,
) -> dict[Any, dict[str, Any]]:
    """Return the images whose file can be used, and count image files that the json does not list.

    Args:
        images: image entries by id.
        root: folder that ``file_name`` is relative to.
        found: gets the problems.
        decode: decode every image.
        progress: show a progress bar.
        stretch: scale of images that are not 8-bit; without it they are errors.
    """

    def file_problem(image: dict[str, Any]) -> str | None:
        path = root / image["file_name"]
        problem = image_problem(str(path), image["width"], image["height"], stretch)
        return problem or (decoding_problem(path, stretch) if decode else None)

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
    _count_unlisted({image["file_name"] for image in images.values()}, root, found)
    return kept


def _count_unlisted(listed: set[str], root: Path, found: Findings) -> None:
    """Count the image files beside the listed ones that the json does not list."""
    for folder in sorted({str(PurePosixPath(name).parent) for name in listed}):
        if not (root / folder).is_dir():
            continue
        for file in sorted((root / folder).iterdir()):
            name = file.relative_to(root).as_posix()
            if file.suffix.lower() in IMAGE_SUFFIXES and name not in listed:
                found.add("image files that the json does not list", name, "note")
