"""COCO json as exporters write it: other keys, ids as text, blanks around names."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import unquote

from d2tiny.data.coco.boxes import fitting_area, has_area
from d2tiny.data.coco.document import REGION_KEYS, normalise_keys, read_name
from d2tiny.data.coco.entries import (
    read_annotation_box,
    read_ignored,
    read_regions,
    shown,
    with_usable_outline,
    without_nan,
)
from d2tiny.data.coco.findings import Findings
from d2tiny.data.coco.source import common_tail, name_problem, relative_name
from d2tiny.data.coco.values import parse_id, parse_size
from d2tiny.data.loading.headers import IMAGE_SUFFIXES
from d2tiny.data.tools.converters.base import RawImage, RawObject, image_size
from d2tiny.utils.errors import DatasetError
from d2tiny.utils.files import read_json

__all__ = ["coco_class_names", "read_coco"]

_DRIVE = re.compile(r"^[A-Za-z]:")


def _read(path: Path, findings: Findings) -> dict[str, Any]:
    return normalise_keys(read_json(path), path, findings, labelled=False)


def coco_class_names(path: Path) -> tuple[str, ...]:
    """Return the class names of a json by rising id; ids that are texts follow in the order of the file.

    Raises:
        DatasetError: it is no COCO detection json, or a category has no id or no name.
    """
    names = _category_names(_read(path, Findings())["categories"], path)
    numbers = sorted(key for key in names if isinstance(key, int))
    texts = [key for key in names if isinstance(key, str)]
    ordered: list[int | str] = [*numbers, *texts]
    return tuple(names[key] for key in ordered)


def _category_names(categories: Sequence[Mapping[str, Any]], path: Path) -> dict[int | str, str]:
    """Return the name of each category id as ``parse_id`` reads it."""
    names: dict[int | str, str] = {}
    for category in categories:
        key, name = parse_id(category.get("id")), read_name(category.get("name"))
        if key is None or name is None:
            raise DatasetError(f"{path}: a category without id or name: {shown(category)}.")
        if key in names:
            raise DatasetError(f"{path}: two categories share an id ({key}).")
        names[key] = name
    return names


def read_coco(source: Path, findings: Findings, *, images: Path | None = None) -> tuple[Path, Iterator[RawImage]]:
    """Read a COCO json.

    Args:
        source: the json.
        findings: gets what is left out, such as entries whose image is missing.
        images: folder of the images; by default that of the json. Where it is given, images whose ``file_name`` leads
            nowhere are looked for in it by the last parts of their names.

    Returns:
        The image folder, and the images one by one.

    Raises:
        DatasetError: it is no COCO detection json.
    """
    root = images or source.parent
    if not root.is_dir():
        raise DatasetError(f"{root}: no such folder. Name it with --images.")
    return root, _images(_read(source, findings), source, _Files(root, findings, search=images is not None))


def _images(data: dict[str, Any], source: Path, files: _Files) -> Iterator[RawImage]:
    findings = files.findings
    names = _category_names(data["categories"], source)
    by_image = _annotations_by_image(data, source, findings)
    joined: dict[Path, RawImage] = {}  # an image may be listed under several names of one file
    for number, image in enumerate(data["images"]):
        path = files.find(image, number)
        size = image_size(path, findings) if path is not None else None
        if path is None or size is None or not _fits(image, path, size, findings):
            continue
        raw = joined.get(path)
        if raw is None:
            raw = joined[path] = RawImage(path, size)
            standard = {"id", "file_name", "width", "height", *REGION_KEYS}
            raw.extra = _other_keys(image, standard, findings)
        else:
            findings.add("images listed twice, joined", f"{path}: {shown(image.get('file_name'))}")
        for key in REGION_KEYS:
            getattr(raw, key).extend(read_regions(image, key, findings))
        for annotation in by_image.get(parse_id(image.get("id")), ()):
            _add(raw, annotation, names, findings)
    yield from joined.values()


def _annotations_by_image(
    data: Mapping[str, Any], source: Path, findings: Findings
) -> dict[int | str | None, list[dict[str, Any]]]:
    """Return the annotations of each image id as ``parse_id`` reads it; others are counted."""
    by_image: dict[int | str | None, list[dict[str, Any]]] = {}
    for number, image in enumerate(data["images"]):
        key = parse_id(image.get("id"))
        if key in by_image:
            raise DatasetError(f"{source}: two images share an id. `d2tiny check` says which.")
        if key is None:
            findings.add(
                "images without a usable id, their annotations left out",
                f"number {number}: {shown(image)}",
                "error",
            )
        else:
            by_image[key] = []
    for annotation in data["annotations"]:
        key = parse_id(annotation.get("image_id"))
        if key not in by_image:
            where = f"annotation {shown(annotation.get('id'))} of image {shown(annotation.get('image_id'))}"
            findings.add("annotations of an unknown image, left out", where)
            continue
        by_image[key].append(annotation)
    return by_image


class _Files:
    """The image files of a folder, found by ``file_name`` or, where that leads nowhere, by its last parts."""

    def __init__(self, root: Path, findings: Findings, search: bool) -> None:
        self.root, self.findings, self.search = root, findings, search
        self._by_name: dict[tuple[str, str], list[PurePosixPath]] | None = None

    def find(self, image: Mapping[str, Any], number: int) -> Path | None:
        """Return the file of an image entry; None, and a finding, if there is none."""
        given = image.get("file_name")
        where = f"image {shown(image.get('id', f'number {number}'))}: {shown(given)}"
        pure, problem = relative_name(given), name_problem(given)
        if pure is not None and (self.root / pure).is_file():
            return self.root / pure
        if problem not in (None, "leaves the image folder"):
            self.findings.add(f"images whose file name {problem}, left out", where, "error")
            return None
        found = self._by_last_parts(str(given)) if self.search else []
        if len(found) == 1:
            self.findings.add("file names that lead nowhere, found by their last parts", f"{where}: {found[0]}")
            return self.root / found[0]
        if found:
            both = " or ".join(map(str, found[:2]))
            self.findings.add("missing images that may be several files, left out", f"{where}: {both}", "error")
        elif problem is not None:
            self.findings.add("file names that leave the image folder, left out", where, "error")
        else:
            self.findings.add("missing images, left out", f"{where}, no {self.root / str(pure)}", "error")
        return None

    def _by_last_parts(self, name: str) -> list[PurePosixPath]:
        """Return the files, relative to the folder, that share the most last parts with a name."""
        if self._by_name is None:
            self._by_name = {}
            for file in sorted(self.root.rglob("*")):
                if file.suffix.lower() in IMAGE_SUFFIXES and file.is_file():
                    pure = PurePosixPath(file.relative_to(self.root).as_posix())
                    for key in (("name", pure.name), ("folded", _folded(pure.name))):
                        self._by_name.setdefault(key, []).append(pure)
        parts = PurePosixPath(name.replace("\\", "/")).parts
        last = parts[-1] if parts else ""
        plain = _DRIVE.sub("", last)
        keys = (("name", last), ("name", plain), ("folded", _folded(last)), ("folded", _folded(plain)))
        candidates = next((found for key in keys if (found := self._by_name.get(key))), [])
        shared = [common_tail(parts, candidate.parts) for candidate in candidates]
        return [c for c, n in zip(candidates, shared, strict=True) if n == max(shared)]


def _folded(name: str) -> str:
    """Return a file name in one spelling: of case, composed letters, ``%20``, without blanks around it."""
    return unicodedata.normalize("NFC", unquote(name).strip().casefold())


def _fits(image: Mapping[str, Any], path: Path, size: tuple[int, int], findings: Findings) -> bool:
    """Return whether an image has the stated size, or none is stated."""
    given = tuple(image.get(side) for side in ("width", "height"))
    stated = tuple(parse_size(side) for side in given)
    if None in stated:
        kind = "images without a size" if given == (None, None) else "images whose size is no number of px"
        findings.add(f"{kind}, taken from the file", f"{path}: {shown(given)}", "note")
        return True
    if stated != size:
        name = shown(image.get("file_name"))
        findings.add("images of another size than stated", f"{name}: stated {stated}, is {size}", "error")
    return stated == size


def _other_keys(entry: dict[str, Any], standard: set[str], findings: Findings) -> dict[str, Any]:
    """Return the keys that are not COCO's own, in the order of the file."""
    where = f"id {shown(entry.get('id'))}"
    others = with_usable_outline({k: v for k, v in entry.items() if k not in standard}, where, findings)
    return without_nan(others, where, findings)


def _add(raw: RawImage, annotation: dict[str, Any], names: dict[int | str, str], findings: Findings) -> None:
    where = f"{raw.path.name}, annotation {shown(annotation.get('id'))}"
    box = read_annotation_box(annotation, where, findings)
    if isinstance(box, str):
        findings.add(f"{box}, left out", f"{where}: {shown(annotation.get('bbox'))}")
        return
    category = parse_id(annotation.get("category_id"))
    if category is None or category not in names:
        given = shown(annotation.get("category_id"))
        findings.add("objects of unknown classes, left out", f"{where}: {given}", "error")
        return
    area = fitting_area(annotation, box[2], box[3])
    if area is None and annotation.get("area") is not None and has_area(box):
        given = shown(annotation["area"])
        findings.add("areas that do not fit their box, replaced by width x height", f"{where}: {given}")
    standard = {"id", "image_id", "category_id", "bbox", "area", "iscrowd", "ignore"}
    extra = _other_keys(annotation, standard, findings)
    x, y, w, h = box
    ignored = read_ignored(annotation, where, findings)
    raw.objects.append(RawObject(names[category], (x, y, w, h), area, ignored, extra))
