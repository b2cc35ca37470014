"""Check the categories and images of a COCO json."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import chain, count
from pathlib import Path, PurePosixPath
from typing import Any

from tqdm import tqdm

from d2tiny.data.coco.boxes import box_problem
from d2tiny.data.coco.document import REGION_KEYS, read_name
from d2tiny.data.coco.entries import note_texts, read_regions, shown, without_nan
from d2tiny.data.coco.findings import Findings
from d2tiny.data.coco.source import name_problem, relative_name
from d2tiny.data.coco.values import parse_id, parse_size
from d2tiny.data.loading.headers import IMAGE_SUFFIXES, decoding_problem, image_problem
from d2tiny.data.loading.stretch import StretchLike
from d2tiny.utils.errors import ConfigError

__all__ = ["checked_categories", "checked_images", "images_with_usable_files"]

_BLOCK = 1000  # images whose checks wait at a time


def _entries(entries: list[dict[str, Any]], what: str, found: Findings) -> Iterator[tuple[int | str, dict[str, Any]]]:
    """Yield the id, as readers compare it, and the entry; of those that share an id, only the first."""
    earlier: set[int | str] = set()
    for number, entry in enumerate(entries):
        if entry.get("id") is None:
            found.add(f"{what} without an id, left out", f"number {number}: {shown(entry)}", "error")
            continue
        key = parse_id(entry["id"])
        if key is None:
            found.add(f"{what} whose id is neither a number nor a text, left out", f"id {shown(entry['id'])}", "error")
            continue
        if key in earlier:
            found.add(f"{what} with the id of another, left out", f"id {shown(entry['id'])}", "error")
            continue
        earlier.add(key)
        yield key, entry


def checked_categories(entries: list[dict[str, Any]], found: Findings) -> dict[int | str, dict[str, Any]]:
    """Return the category of each id; ids of categories that share a name lead to the first of them.

    Categories whose id is a text get a number that is free.
    """
    result = {}
    names: dict[str, Any] = {}
    entries_by_name: dict[str, Any] = {}
    usable = list(_entries(entries, "categories", found))
    taken = {key for key, _ in usable}
    free = (number for number in count(1) if number not in taken)
    for key, entry in usable:
        name = read_name(entry.get("name"))
        if name is None:
            found.add("categories without a name, left out", f"id {shown(key)}: {shown(entry.get('name'))}", "error")
            continue
        if name != entry["name"]:
            odd = "with blanks around them" if isinstance(entry["name"], str) else "that are numbers, written as text"
            found.add(f"category names {odd}", repr(entry["name"]))
        if isinstance(key, str):
            found.add("categories whose id is no number, numbered", f"id {shown(key)}", "error")
        if name in names:
            found.add("categories with the name of another", f"'{name}': ids {names[name]} and {key}", "error")
        names.setdefault(name, key)
        number = entries_by_name.get(name)
        if number is None:
            number = entries_by_name[name] = key if isinstance(key, int) else next(free)
        standard = {"id": number, "name": name}
        others = {k: v for k, v in entry.items() if k not in standard}
        result[key] = {**standard, **without_nan(others, f"category {shown(key)}", found)}
    return result


def checked_images(entries: list[dict[str, Any]], found: Findings) -> dict[int | str, dict[str, Any]]:
    """Return the usable image entry of each id, with its usable ignored regions."""
    result = {}
    names: dict[str, Any] = {}
    for key, entry in _entries(entries, "images", found):
        given, sizes = entry.get("file_name"), [parse_size(entry.get(side)) for side in ("width", "height")]
        name, problem = str(relative_name(given)), name_problem(given)
        if problem == "is missing":
            found.add("images without a file name, left out", f"id {shown(key)}", "error")
        elif problem == "leaves the image folder":
            found.add("file names that leave the image folder, left out", f"id {shown(key)}: {shown(given)}", "error")
        elif problem is not None:
            found.add("file names that name no file, left out", f"id {shown(key)}: {shown(given)} {problem}", "error")
        elif None in sizes:
            stated = tuple(shown(entry.get(side)) for side in ("width", "height"))
            found.add("images without a valid width and height, left out", f"{name}: {stated}", "error")
        elif name in names:
            found.add("images listed twice, left out", f"{name}: ids {names[name]} and {key}", "error")
        else:
            names[name] = key
            note_texts(entry, ("width", "height"), f"image {shown(key)}", found)
            standard = {"id": key, "file_name": name, "width": sizes[0], "height": sizes[1]}
            result[key] = _with_regions({**entry, **standard}, found)
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

    Raises:
        ConfigError: none of several files is there, so that the folder is another one.
    """

    def file_problem(image: dict[str, Any]) -> str | None:
        path = root / image["file_name"]
        problem = image_problem(str(path), image["width"], image["height"], stretch)
        return problem or (decoding_problem(path, stretch) if decode else None)

    kept, missing, every = {}, 0, list(images.values())
    with ThreadPoolExecutor(8) as pool:
        blocks = (pool.map(file_problem, every[i : i + _BLOCK]) for i in range(0, len(every), _BLOCK))
        problems = tqdm(chain.from_iterable(blocks), total=len(every), desc="images", disable=not progress, leave=False)
        for (key, image), problem in zip(images.items(), problems, strict=True):
            if problem is None:
                kept[key] = image
                continue
            kind = problem.split(" (")[0] if " px, but" not in problem else "of another size than stated"
            missing += kind == "missing"
            found.add(f"images {kind}, left out", f"{root / image['file_name']}: {problem}", "error")
    if missing == len(every) > 1:
        raise ConfigError(
            f"{root}: none of the {missing} image files is there, for example {every[0]['file_name']!r}. The names "
            "in the json are relative to a folder, which --images names."
        )
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
