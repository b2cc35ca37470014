"""What all converters share: the types between a native file and COCO json, and the conversion to COCO."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
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
    "image_size",
    "images_by_stem",
    "list_images",
    "read_label_texts",
    "read_lines",
    "text_lines",
    "to_coco",
]

_TOLERANCE = 0.5  # px over the image border that are not worth a note


@dataclass
class RawObject:
    """One object of a native file.

    Attributes:
        label: class name.
        box: XYWH in px.
        area: in px²; None takes width × height.
        ignore: neither learn the object nor count its detections as false positives.
        extra: other keys of the annotation, copied to the json.
        where: location of the object in its file, for findings.
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
        path: of the image file.
        size: width and height in px.
        objects: labelled objects.
        ignored_regions: XYWH areas in which objects are not labelled.
        ignored_boxes: XYWH boxes of objects that belong to no class.
        extra: other keys of the image entry, copied to the json.
    """

    path: Path
    size: tuple[int, int]
    objects: list[RawObject] = field(default_factory=list)
    ignored_regions: list[tuple[float, float, float, float]] = field(default_factory=list)
    ignored_boxes: list[tuple[float, float, float, float]] = field(default_factory=list)
    extra: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Classes:
    """The classes of a json.

    Attributes:
        names: class names in the order of their ids (from 1); None takes those that occur, sorted.
        rename: native name → name in the json.
        ignored: names (after renaming) of classes whose objects become ``ignored_boxes``.
        dropped: likewise, of classes whose objects are left out.
    """

    names: tuple[str, ...] | None = None
    rename: Mapping[str, str] = field(default_factory=dict)
    ignored: frozenset[str] = frozenset()
    dropped: frozenset[str] = frozenset()

    def name_of(self, label: str) -> str:
        """Return the name in the json of a native label."""
        stripped = label.strip()
        return self.rename.get(stripped, stripped)


def find_folder(source: Path, names: Sequence[str], given: Path | None, what: str) -> Path:
    """Return the folder ``given`` by the user, or the first of ``names`` that exists below ``source``.

    Args:
        source: folder of the dataset.
        names: candidates below it, the preferred one first.
        given: folder that the user named, if any.
        what: the command line's option for it, for the message.

    Raises:
        DatasetError: no candidate exists; lists all of them.
    """
    candidates = [given] if given is not None else [source / name for name in names]
    for folder in candidates:
        if folder.is_dir():
            return folder
    looked = ", ".join(str(folder) for folder in candidates)
    hint = " Images without labels are cut by `d2tiny tile FOLDER`." if what == "labels" else ""
    raise DatasetError(f"No folder of {what} (looked in {looked}). Name it with --{what}.{hint}")


def list_images(folder: Path) -> list[Path]:
    """Return the image files of a folder, sorted.

    Raises:
        DatasetError: the folder holds none; says which of its folders do.
    """
    files = [f for f in sorted(folder.iterdir()) if f.suffix.lower() in IMAGE_SUFFIXES and f.is_file()]
    if not files:
        below = sorted({f.parent.name for f in folder.glob("*/*") if f.suffix.lower() in IMAGE_SUFFIXES})
        hint = f" Its folders {', '.join(below[:5])} hold images: name one of them." if below else ""
        raise DatasetError(f"{folder}: no images here (looked for {', '.join(sorted(IMAGE_SUFFIXES))}).{hint}")
    return files


def images_by_stem(folders: Sequence[Path], findings: Findings) -> dict[str, list[Path]]:
    """Return the images of folders, file name without suffix → paths: ``a.jpg`` and ``a.png`` share their labels.

    Args:
        folders: with images directly in them.
        findings: gets the images that share their name.

    Raises:
        DatasetError: a folder holds no images.
    """
    files: dict[str, list[Path]] = {}
    for path in (path for folder in folders for path in list_images(folder)):
        files.setdefault(path.stem, []).append(path)
    for paths in files.values():
        if len(paths) > 1:
            findings.add("images that share one label file", ", ".join(map(str, paths)), count=len(paths))
    return files


def image_size(path: Path, findings: Findings) -> tuple[int, int] | None:
    """Return (width, height) in px after EXIF rotation; None, and a finding, for an image that cannot be read."""
    try:
        return read_header(path).size
    except (OSError, ValueError) as err:
        findings.add("images that cannot be read, left out", f"{path}: {err}", "error")
        return None


def text_lines(path: Path) -> list[tuple[int, str]]:
    """Return a text's non-empty lines, without blanks around them, with their numbers from 1.

    Raises:
        DatasetError: it cannot be read, or is not UTF-8.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except OSError as err:
        raise DatasetError(f"{path} cannot be read ({err.strerror}).") from err
    except UnicodeDecodeError as err:
        raise DatasetError(f"{path} cannot be read ({err}). Store it as UTF-8.") from err
    return [(i, line.strip()) for i, line in enumerate(text.splitlines(), start=1) if line.strip()]


def read_lines(path: Path, findings: Findings) -> list[tuple[int, str]] | None:
    """Return the lines of :func:`text_lines`; None, and a finding, for a file that cannot be read."""
    try:
        return text_lines(path)
    except DatasetError as err:
        findings.add("label files that cannot be read, image left out", str(err), "error")
        return None


def read_label_texts(
    root: Path, texts: Path, findings: Findings, add_line: Callable[[RawImage, str, str], None]
) -> Iterator[RawImage]:
    """Yield the images of a folder with the objects of their label texts ``<image name>.txt``.

    Args:
        root: folder of the images.
        texts: folder of the texts.
        findings: gets texts without an image, and images that are left out because their text is missing.
        add_line: adds what one line says to its image; called with the image, the line and its location.
    """
    files = images_by_stem([root], findings)
    for text in sorted(texts.glob("*.txt")):
        if text.stem not in files:
            findings.add("label files without an image", str(text))
    for path in (path for paths in files.values() for path in paths):
        text = texts / f"{path.stem}.txt"
        if not text.exists():
            findings.add("images without a label file, left out", str(path))
            continue
        size, lines = image_size(path, findings), read_lines(text, findings)
        if size is None or lines is None:
            continue
        raw = RawImage(path, size)
        for number, line in lines:
            add_line(raw, line, f"{text.name}, line {number}: {line!r}")
        yield raw


def _add_objects(raw: RawImage, classes: Classes, ids: Mapping[str, int], findings: Findings) -> Iterator[RawObject]:
    """Yield the usable objects of an image; boxes of ignored classes are moved to its ``ignored_boxes``."""
    for item in raw.objects:
        label = classes.name_of(item.label)
        where = f"{item.where or raw.path.name}: {label} {tuple(round(v, 2) for v in item.box)}"
        problem = box_problem(item.box, raw.size)
        if problem:
            findings.add(f"{problem}, left out", where)
        elif label in classes.ignored:
            findings.add("objects of ignored classes", where, "note")
            raw.ignored_boxes.append(item.box)
        elif label in classes.dropped:
            findings.add("objects of dropped classes, left out", where, "note")
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
    """Convert the images of a reader to a COCO dict.

    Args:
        images: as a format's reader yields them.
        root: folder that ``file_name`` is relative to.
        classes: names and order of the classes.
        findings: gets what is left out.
        total: number of images, for the progress bar.
        progress: show a progress bar.

    Raises:
        DatasetError: no image could be used.
    """
    raws = list(tqdm(images, total=total, desc="reading", unit="image", disable=not progress, leave=False))
    if not raws:
        raise DatasetError(f"{root}: no image could be converted: {findings or 'none is listed'}.")
    names = classes.names
    if names is None:
        found = {classes.name_of(item.label) for raw in raws for item in raw.objects}
        names = tuple(sorted(found - classes.ignored - classes.dropped))
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
