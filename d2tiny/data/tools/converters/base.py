"""What all converters share: the types between a native file and COCO json, and the conversion to COCO."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tqdm import tqdm

from d2tiny.data.coco.boxes import box_problem, clip_box, overhang
from d2tiny.data.coco.document import REGION_KEYS
from d2tiny.data.coco.findings import Findings
from d2tiny.data.loading.headers import IMAGE_SUFFIXES, read_header
from d2tiny.utils.errors import DatasetError

__all__ = [
    "Classes",
    "RawImage",
    "RawObject",
    "find_folder",
    "image_files",
    "image_size",
    "read_lines",
    "to_coco",
]

_TOLERANCE = 0.5  # px over the image border that are not worth a note


@dataclass
class RawObject:
    """One object: class name, XYWH box in px, and what else its file says.

    ``area`` in px² is width × height where None; ``ignore`` marks what is neither learned nor punished; ``extra`` keys
    go to the json as they are; ``where`` names its line for findings.
    """

    label: str
    box: tuple[float, float, float, float]
    area: float | None = None
    ignore: bool = False
    extra: dict[str, Any] = field(default_factory=dict)
    where: str = ""


@dataclass
class RawImage:
    """One image with its objects.

    Attributes:
        path: of the image.
        size: (width, height) in px.
        objects: of known classes.
        ignored_regions: XYWH areas without labels.
        ignored_boxes: XYWH objects of no class.
        extra: other keys of the image.
    """

    path: Path
    size: tuple[int, int]
    objects: list[RawObject] = field(default_factory=list)
    ignored_regions: list[tuple[float, float, float, float]] = field(default_factory=list)
    ignored_boxes: list[tuple[float, float, float, float]] = field(default_factory=list)
    extra: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Classes:
    """Which classes a json gets, and under which names.

    Attributes:
        names: in the order of their ids (from 1); None takes those that occur, sorted by name.
        rename: native name → name.
        ignored: names (after renaming) whose objects become ``ignored_boxes``.
    """

    names: tuple[str, ...] | None = None
    rename: Mapping[str, str] = field(default_factory=dict)
    ignored: frozenset[str] = frozenset()

    def name_of(self, label: str) -> str:
        """Return the name of a native label."""
        stripped = label.strip()
        return self.rename.get(stripped, stripped)


def find_folder(source: Path, names: Sequence[str], given: Path | None, what: str) -> Path:
    """Return the folder that was given, or the first of ``names`` below ``source``.

    Raises:
        DatasetError: there is none; lists where it looked.
    """
    places = [given] if given is not None else [source / name for name in names]
    for place in places:
        if place.is_dir():
            return place
    looked = ", ".join(str(place) for place in places)
    raise DatasetError(f"No folder of {what} (looked in {looked}). Name it with --{what}.")


def image_files(folder: Path) -> dict[str, Path]:
    """Return the images of a folder by name without ending.

    Raises:
        DatasetError: there are none.
    """
    files = {f.stem: f for f in sorted(folder.iterdir()) if f.suffix.lower() in IMAGE_SUFFIXES}
    if not files:
        raise DatasetError(f"{folder}: no images here (looked for {', '.join(sorted(IMAGE_SUFFIXES))}).")
    return files


def image_size(path: Path, findings: Findings) -> tuple[int, int] | None:
    """Return (width, height) from the file's header, turned as EXIF says, or None and a finding."""
    try:
        return read_header(path).size
    except (OSError, ValueError) as err:
        findings.add("images that cannot be read, left out", f"{path}: {err}", "error")
        return None


def read_lines(path: Path, findings: Findings) -> list[tuple[int, str]] | None:
    """Return the lines of a label file that hold anything, with their numbers, or None and a finding."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as err:
        findings.add("label files that cannot be read, image left out", f"{path}: {err}", "error")
        return None
    return [(i, line.strip()) for i, line in enumerate(text.splitlines(), start=1) if line.strip()]


def _add_objects(raw: RawImage, classes: Classes, ids: Mapping[str, int], findings: Findings) -> Iterator[RawObject]:
    """Usable objects of an image; those of ignored classes go to its ``ignored_boxes``."""
    for item in raw.objects:
        label = classes.name_of(item.label)
        where = f"{item.where or raw.path.name}: {label} {tuple(round(v, 2) for v in item.box)}"
        problem = box_problem(item.box, raw.size)
        if problem:
            findings.add(f"{problem}, left out", where)
        elif label in classes.ignored:
            findings.add("objects of ignored classes", where, "note")
            raw.ignored_boxes.append(item.box)
        elif label not in ids:
            findings.add("objects of unknown classes, left out", where, "error")
        else:
            if overhang(item.box, raw.size) > _TOLERANCE:
                findings.add("boxes over the image border, kept as they are", where, "note")
            yield item


def to_coco(
    images: Iterable[RawImage],
    root: Path,
    classes: Classes,
    findings: Findings,
    *,
    total: int | None = None,
    progress: bool = True,
) -> dict[str, Any]:
    """Turn what a reader yields into a COCO dict.

    Args:
        images: from a reader.
        root: folder that ``file_name`` is relative to.
        classes: names and order.
        findings: gets what was left out.
        total: number of images, for the progress bar.
        progress: show a bar.

    Raises:
        DatasetError: no image could be used.
    """
    raws = list(tqdm(images, total=total, desc="reading", unit="image", disable=not progress, leave=False))
    if not raws:
        raise DatasetError(f"{root}: no image could be converted: {findings or 'none is listed'}.")
    names = classes.names
    if names is None:
        found = {classes.name_of(item.label) for raw in raws for item in raw.objects}
        names = tuple(sorted(found - classes.ignored))
    ids = {name: i for i, name in enumerate(names, start=1)}
    entries: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for image_id, raw in enumerate(raws, start=1):
        for item in _add_objects(raw, classes, ids, findings):
            x, y, w, h = item.box
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": image_id,
                    "category_id": ids[classes.name_of(item.label)],
                    "bbox": [x, y, w, h],
                    "area": w * h if item.area is None else item.area,
                    "iscrowd": int(item.ignore),
                    "ignore": int(item.ignore),
                    **item.extra,
                }
            )
        entry = {
            "id": image_id,
            "file_name": raw.path.relative_to(root).as_posix(),
            "width": raw.size[0],
            "height": raw.size[1],
            **raw.extra,
        }
        for key in REGION_KEYS:
            boxes = list(_usable_regions(getattr(raw, key), raw, findings))
            if boxes:
                entry[key] = boxes
        entries.append(entry)
    categories = [{"id": i, "name": name} for name, i in ids.items()]
    return {"images": entries, "annotations": annotations, "categories": categories}


def _usable_regions(boxes: Iterable[Sequence[float]], raw: RawImage, findings: Findings) -> Iterator[list[float]]:
    for box in boxes:
        clipped = clip_box(box, raw.size)
        if isinstance(clipped, str):
            findings.add(f"{clipped}, left out", f"{raw.path.name}: ignored {tuple(round(v, 2) for v in box)}")
        else:
            yield clipped
