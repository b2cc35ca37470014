"""Read YOLO texts: boxes or polygons in shares of the image, beside the images or in ``labels``."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from d2tiny.data.coco.findings import Findings
from d2tiny.data.coco.values import parse_number
from d2tiny.data.tools.converters.base import RawImage, RawObject, image_size, images_by_stem, read_lines
from d2tiny.data.tools.converters.yolo_names import find_keypoint_shape, find_yolo_classes
from d2tiny.utils.errors import ConfigError, DatasetError

__all__ = ["read_yolo"]

Kind = Literal["box", "polygon"]
_MARGIN = 0.01  # share of the image by which a box may exceed it
_TIGHT = 1.05  # keypoints lie in their box up to this share of its half sides
_LARGEST = {"box": 2.0, "polygon": 1.5}  # shares of the image; larger numbers are px, or marks of keypoints


def read_yolo(
    source: Path,
    findings: Findings,
    *,
    images: Path | None = None,
    labels: Path | None = None,
    names: Mapping[int, str] | None = None,
    lines: Literal["auto", "box", "polygon"] = "auto",
) -> tuple[Path, Iterator[RawImage]]:
    """Read lines ``class cx cy w h`` (shares of the image's sides), or ``class`` and a polygon, whose hull is taken.

    Keypoints, a confidence and the number of a track may follow a box. ``kpt_shape`` of a YAML file says how many
    numbers are keypoints; without it, lines are told apart by their numbers, and those that are read as a box with more
    behind it are counted. An image without a text has no objects, as in YOLO's own tools; these images are counted.

    Args:
        source: a folder with images and texts, or with ``images`` and ``labels``.
        findings: gets what is left out.
        images: folder of the images; by default ``images`` in ``source``, or ``source``.
        labels: folder of the texts; by default the one in ``labels`` that corresponds to the folder of the images, or
            that folder.
        names: class names by number; by default those of :func:`find_yolo_classes`.
        lines: what follows the class: a box and perhaps more, a polygon, or what the numbers say.

    Returns:
        The image folder, and the images one by one.

    Raises:
        ConfigError: an unknown value of ``lines``.
        DatasetError: a folder or the class names are missing.
    """
    if lines not in ("auto", "box", "polygon"):
        raise ConfigError(f"lines={lines!r} must be one of auto, box, polygon.")
    root = images or (source / "images" if (source / "images").is_dir() else source)
    texts = labels or _labels_of(root, source)
    for folder in (root, texts):
        if not folder.is_dir():
            raise DatasetError(f"{folder}: no such folder.")
    known = find_yolo_classes(source, findings) if names is None else dict(names)
    return root, _images(root, texts, _Lines(known, lines, find_keypoint_shape(source)), findings)


def _labels_of(root: Path, source: Path) -> Path:
    """Return the folder of the texts: ``labels/train`` for ``images/train``, ``labels``, or that of the images."""
    resolved, beside = root.resolve(), (source / "images").resolve()
    if resolved.is_relative_to(beside):
        same = source / "labels" / resolved.relative_to(beside)
        if same.is_dir():
            return same
    return source / "labels" if (source / "labels").is_dir() else root


def _images(root: Path, texts: Path, lines: _Lines, findings: Findings) -> Iterator[RawImage]:
    files = images_by_stem([root], findings)
    for text in sorted(texts.glob("*.txt")):
        if text.stem not in files and text.name != "classes.txt":
            findings.add("label files without an image", str(text))
    for path in (path for paths in files.values() for path in paths):
        size = image_size(path, findings)
        if size is None:
            continue
        raw = RawImage(path, size)
        text = texts / f"{path.stem}.txt"
        if not text.exists():
            findings.add("images without a label file, taken as empty", str(path), "note")
            yield raw
            continue
        rows = read_lines(text, findings)
        if rows is None:
            continue
        lines.add(raw, {f"{text.name}, line {number}: {line[:80]!r}": line for number, line in rows}, findings)
        yield raw


@dataclass(frozen=True)
class _Lines:
    """How the lines of a dataset are read.

    Attributes:
        names: class names by number.
        kind: what follows the class.
        keypoints: number of keypoints, and numbers of each, where a file states them.
    """

    names: Mapping[int, str]
    kind: Literal["auto", "box", "polygon"]
    keypoints: tuple[int, int] | None

    def add(self, raw: RawImage, lines: Mapping[str, str], findings: Findings) -> None:
        """Add the objects of a text's lines (place → line) to their image, or count why a line has none."""
        rows = {where: _numbers(line) for where, line in lines.items()}
        usual = _usual_kind([values for _, values in rows.values()])
        for where, (index, values) in rows.items():
            kind = self._kind(values, usual, where, findings)
            if kind is None:
                findings.add("lines that are not a class and a box or polygon, left out", where)
            elif index not in self.names:
                findings.add("objects of unknown classes, left out", where, "error")
            elif not all(map(math.isfinite, values)):  # min() and max() may pass over a NaN
                findings.add("boxes with NaN or infinity, left out", where)
            elif max(values[:4] if kind == "box" else values) > _LARGEST[kind]:
                findings.add("boxes that are not shares of the image, left out", where, "error")
            else:
                x, y, w, h = _box(values) if kind == "box" else _hull(values)
                width, height = raw.size
                box = (x * width, y * height, w * width, h * height)
                raw.objects.append(RawObject(self.names[index], box, where=where))

    def _kind(self, values: Sequence[float], usual: Kind | None, where: str, findings: Findings) -> Kind | None:
        """Return what the numbers behind the class are; None for neither.

        Args:
            values: the numbers.
            usual: what the lines of the text are that have as many numbers as a polygon.
            where: place of the line.
            findings: gets what is not certain.
        """
        count, polygon = len(values), _may_be_polygon(values)
        points, each = self.keypoints or (0, 0)
        if count in (4, 5) or (count > 5 and self.kind == "box") or (points and count - points * each in (4, 5)):
            return "box"  # the fifth is a confidence
        if count < 4 or self.kind == "polygon":
            return "polygon" if polygon else None
        sure, maybe = _box_and_more(values)
        if usual == "box" if polygon and usual else sure or (maybe and not polygon):
            findings.add("lines read as a box with keypoints or a track, see --lines", where, "note")
            return "box"
        if polygon and maybe:
            findings.add("lines read as a polygon that may be a box with keypoints, see --lines", where)
        return "polygon" if polygon else None


def _numbers(line: str) -> tuple[int, list[float]]:
    """Return a line's class and the numbers behind it; none for a line that is not numbers after a whole number."""
    words = line.split()
    numbers = [number for number in map(parse_number, words) if number is not None]
    return (int(numbers[0]), numbers[1:]) if len(numbers) == len(words) and numbers[0].is_integer() else (-1, [])


def _may_be_polygon(values: Sequence[float]) -> bool:
    return len(values) >= 6 and len(values) % 2 == 0


def _usual_kind(rows: Sequence[Sequence[float]]) -> Kind | None:
    """Return which of the two most lines of a text are, among those that may be polygons; None for a draw."""
    readings = [_box_and_more(values) for values in rows if _may_be_polygon(values)]
    boxes, polygons = sum(sure for sure, _ in readings), sum(not maybe for _, maybe in readings)
    return None if boxes == polygons else "box" if boxes > polygons else "polygon"


def _box(values: Sequence[float]) -> tuple[float, float, float, float]:
    cx, cy, w, h = values[:4]
    return cx - w / 2, cy - h / 2, w, h


def _hull(values: Sequence[float]) -> tuple[float, float, float, float]:
    x, y = min(values[::2]), min(values[1::2])
    return x, y, max(values[::2]) - x, max(values[1::2]) - y


def _box_and_more(values: Sequence[float]) -> tuple[bool, bool]:
    """Return whether six or more numbers are a box and what belongs to it, and whether they may be.

    A box and what follows it: confidence and number of a track, or keypoints in the box, as (x, y) or (x, y, visible),
    perhaps with a confidence at the end. A polygon whose first point is far from the origin may look like the centre of
    a box that holds the other points, but then its second point lies there, too.
    """
    x, y, w, h = _box(values)
    if not (w > 0 and h > 0 and min(x, y) >= -_MARGIN and max(x + w, y + h) <= 1 + _MARGIN):
        return False, False
    more = values[4:]
    if len(more) == 2 and 0 <= more[0] <= 1 and more[1] >= 0 and more[1].is_integer():
        return more[1] >= 1, True  # a number of 0 may also be a place at the border
    box = (*values[:2], w * _TIGHT / 2, h * _TIGHT / 2)
    for rest in (more, more[:-1]):
        if len(rest) % 3 == 0 and _in_box(rest, 3, box) and set(rest[2::3]) <= {0, 1, 2}:
            return True, True
    if len(more) % 3 == 0 and set(more[2::3]) <= {0, 1, 2}:
        return False, True  # marks of keypoints, which lie outside the box
    if not any(
        len(rest) % each == 0 and _in_box(rest, each, box) for rest in (more, more[:-1]) for each in (2, 3) if rest
    ):
        return False, False
    if not _in_box((w, h), 2, box):
        return True, True
    hull = _hull(values[: len(values) // 2 * 2])
    return False, hull[2] * hull[3] * 4 > w * h


def _in_box(points: Sequence[float], each: int, box: Sequence[float]) -> bool:
    """Return whether points lie in a box (centre, half sides); those at (0, 0) are not labelled, others are visible."""
    cx, cy, half_w, half_h = box
    places = zip(points[::each], points[1::each], strict=True)
    visible = each == 2 or all(0 <= v <= 2 for v in points[2::each])
    return visible and all((x == y == 0) or (abs(x - cx) <= half_w and abs(y - cy) <= half_h) for x, y in places)
