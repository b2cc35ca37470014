"""Read DOTA (v1.0, v1.5, v2.0): ``images/*.png``, and ``labelTxt/*.txt`` with quadrilaterals."""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Literal

from d2tiny.data.coco.boxes import box_xyxy_to_xywh
from d2tiny.data.coco.findings import Findings
from d2tiny.data.coco.values import parse_number
from d2tiny.data.tools.converters.base import RawImage, RawObject, find_folder, read_label_texts
from d2tiny.utils.errors import ConfigError

__all__ = ["read_dota"]

_HEADERS = ("imagesource", "gsd", "acquisition dates")
_CUT = 2  # difficulty that the devkit's splitter gives to objects with at most 0.7 of their area inside the tile
Policy = Literal["keep", "ignore", "drop"]


def read_dota(
    source: Path,
    findings: Findings,
    *,
    images: Path | None = None,
    labels: Path | None = None,
    area: Literal["polygon", "hbb"] = "polygon",
    difficult: Policy = "keep",
    cut: Policy = "ignore",
) -> tuple[Path, Iterator[RawImage]]:
    """Read lines ``x1 y1 x2 y2 x3 y3 x4 y4 category [difficult]``; boxes are the axis-aligned hulls.

    Header lines (``imagesource:``, ``gsd:``, acquisition dates) are skipped; the ground sampling distance is stored as
    the image's ``gsd`` (m/px). The quadrilateral is stored as ``segmentation``.

    Args:
        source: a folder with ``images`` and ``labelTxt``.
        findings: gets what is left out.
        images: folder of the images; by default ``images`` in ``source``.
        labels: folder of the texts; by default ``labelTxt`` or ``labelTxt-v2.0``, ``-v1.5``, ``-v1.0`` in ``source``.
        area: take the area of the polygon, as the devkit's COCO export and published area bins do, or of the hull.
        difficult: treatment of objects with difficult = 1. The papers' json files keep them, the official evaluation
            does not count them ("ignore").
        cut: treatment of objects that the devkit's splitter cut (difficult = 2).

    Returns:
        The image folder, and the images one by one.

    Raises:
        DatasetError: a folder is missing or holds no images.
        ConfigError: an unknown value of ``area``, ``difficult`` or ``cut``.
    """
    for name, value, allowed in (
        ("area", area, ("polygon", "hbb")),
        ("difficult", difficult, ("keep", "ignore", "drop")),
        ("cut", cut, ("keep", "ignore", "drop")),
    ):
        if value not in allowed:
            raise ConfigError(f"{name}={value!r} must be one of {', '.join(allowed)}.")
    root = find_folder(source, ["images"], images, "images")
    texts = find_folder(source, ["labelTxt", "labelTxt-v2.0", "labelTxt-v1.5", "labelTxt-v1.0"], labels, "labels")
    policies: dict[int, Policy] = {1: difficult, _CUT: cut}
    return root, read_label_texts(root, texts, findings, partial(_add_line, findings, area, policies))


def _add_line(findings: Findings, area: str, policies: dict[int, Policy], raw: RawImage, line: str, where: str) -> None:
    words = line.split()
    if len(words) < 9:
        _add_header(findings, raw, line, where)
        return
    points = [number for number in map(parse_number, words[:8]) if number is not None]
    level = _level(words[9:])
    if len(points) < 8 or level is None:
        findings.add("lines that are not eight numbers and a class, left out", where)
        return
    xs, ys = points[::2], points[1::2]
    if not all(map(math.isfinite, points)):  # min() and max() may pass over a NaN
        findings.add("boxes with NaN or infinity, left out", where)
        return
    box = box_xyxy_to_xywh((min(xs), min(ys), max(xs), max(ys)))
    policy = policies[_CUT if level >= _CUT else 1] if level > 0 else "keep"
    if policy == "drop":
        findings.add("difficult objects, dropped as asked", where, "note")
        return
    size = _polygon_area(xs, ys) if area == "polygon" else box[2] * box[3]
    if size <= 0:
        findings.add("boxes without area, left out", where)
        return
    extra = {"segmentation": [points], "difficult": level}
    raw.objects.append(RawObject(words[8], box, size, policy == "ignore", extra, where))


def _add_header(findings: Findings, raw: RawImage, line: str, where: str) -> None:
    """Add what a header line says to its image; other short lines are counted."""
    key, colon, value = line.partition(":")
    if not colon or key.strip().lower() not in _HEADERS:
        findings.add("lines with fewer than nine words, left out", where)
    elif key.strip().lower() == "gsd":
        gsd = parse_number(value)
        if gsd is not None and 0 < gsd < math.inf:
            raw.extra["gsd"] = gsd
        else:  # "gsd:null" occurs
            findings.add("images without ground sampling distance", where, "note")


def _level(words: list[str]) -> int | None:
    """Return the difficulty behind a line's class, 0 if it has none; None for more words and for other words."""
    level = parse_number(words[0]) if words else 0.0
    return int(level) if level is not None and level.is_integer() and len(words) < 2 else None


def _polygon_area(xs: list[float], ys: list[float]) -> float:
    """Return the area of a polygon in px² by the shoelace formula."""
    pairs = zip(xs, ys, [*xs[1:], xs[0]], [*ys[1:], ys[0]], strict=True)
    return abs(sum(x1 * y2 - x2 * y1 for x1, y1, x2, y2 in pairs)) / 2
