"""Read YOLO texts: boxes or polygons in shares of the image, beside the images or in ``labels``."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from pathlib import Path

from d2tiny.data.coco.findings import Findings
from d2tiny.data.tools.converters.base import RawImage, RawObject, image_files, image_size, read_lines
from d2tiny.utils.errors import DatasetError

__all__ = ["find_yolo_classes", "read_yolo"]


def find_yolo_classes(source: Path) -> tuple[str, ...]:
    """Return the class names of ``classes.txt``, ``obj.names`` or ``data.yaml`` in the folder or its parent.

    Raises:
        DatasetError: there is no such file, or it cannot be read.
    """
    import yaml  # not needed by other formats

    for folder in (source, source.parent):
        for name in ("classes.txt", "obj.names"):
            if (folder / name).is_file():
                lines = read_lines(folder / name, Findings())
                if lines is None:
                    raise DatasetError(f"{folder / name} cannot be read.")
                return tuple(line for _, line in lines)
        for path in sorted([*folder.glob("*.yaml"), *folder.glob("*.yml")]):
            try:
                names = (yaml.safe_load(path.read_text(encoding="utf-8")) or {}).get("names")
            except (yaml.YAMLError, AttributeError, UnicodeDecodeError):
                continue
            if isinstance(names, dict) and all(isinstance(i, int) and i >= 0 for i in names):
                names = [names.get(i, f"class {i}") for i in range(max(names, default=-1) + 1)]
            if names:
                return tuple(str(n).strip() for n in names)
    raise DatasetError(
        f"No class names for {source}: no classes.txt, obj.names or data.yaml in it or beside it. "
        "Give them with --classes."
    )


def read_yolo(
    source: Path,
    findings: Findings,
    *,
    images: Path | None = None,
    labels: Path | None = None,
    names: Sequence[str] | None = None,
) -> tuple[Path, Iterator[RawImage]]:
    """Read lines ``class cx cy w h`` (shares of the image's sides), or ``class`` and a polygon, whose hull is taken.

    An image without a text has no objects, as in YOLO's own tools; these images are counted.

    Args:
        source: a folder with images and texts, or with ``images`` and ``labels``.
        findings: gets what is left out.
        images: folder of the images; by default ``images`` in ``source``, or ``source``.
        labels: folder of the texts; by default ``labels`` in ``source``, or the folder of the images.
        names: class names by number, from 0; by default those of :func:`find_yolo_classes`.

    Returns:
        The image folder, and the images one by one.

    Raises:
        DatasetError: a folder or the class names are missing.
    """
    root = images or (source / "images" if (source / "images").is_dir() else source)
    texts = labels or (source / "labels" if (source / "labels").is_dir() else root)
    for folder in (root, texts):
        if not folder.is_dir():
            raise DatasetError(f"{folder}: no such folder.")
    return root, _images(root, texts, tuple(names or find_yolo_classes(source)), findings)


def _images(root: Path, texts: Path, names: Sequence[str], findings: Findings) -> Iterator[RawImage]:
    files = image_files(root)
    for text in sorted(texts.glob("*.txt")):
        if text.stem not in files and text.name != "classes.txt":
            findings.add("label files without an image", str(text))
    for stem, path in files.items():
        size = image_size(path, findings)
        if size is None:
            continue
        raw = RawImage(path, size)
        text = texts / f"{stem}.txt"
        if not text.exists():
            findings.add("images without a label file, taken as empty", str(path), "note")
            yield raw
            continue
        lines = read_lines(text, findings)
        if lines is None:
            continue
        for number, line in lines:
            _add_line(raw, line, names, f"{text.name}, line {number}: {line[:80]!r}", findings)
        yield raw


def _add_line(raw: RawImage, line: str, names: Sequence[str], where: str, findings: Findings) -> None:
    try:
        kind, *values = (float(word) for word in line.split())
        index = int(kind)
    except (ValueError, OverflowError):  # also int() of NaN and infinity
        index, values = -1, []
    if len(values) in (4, 5):  # the fifth is a confidence
        cx, cy, w, h = values[:4]
        x1, y1 = cx - w / 2, cy - h / 2
    elif len(values) >= 6 and len(values) % 2 == 0:
        x1, y1 = min(values[::2]), min(values[1::2])
        w, h = max(values[::2]) - x1, max(values[1::2]) - y1
    else:
        findings.add("lines that are not a class and a box or polygon, left out", where)
        return
    if not 0 <= index < len(names):
        findings.add("objects of unknown classes, left out", where, "error")
        return
    if not all(map(math.isfinite, values)):  # min() and max() may pass over a NaN
        findings.add("boxes with NaN or infinity, left out", where)
        return
    if max(values[:4] if len(values) < 6 else values) > 2:
        findings.add("boxes that are not shares of the image, left out", where, "error")
        return
    width, height = raw.size
    raw.objects.append(RawObject(names[index], (x1 * width, y1 * height, w * width, h * height), where=where))
