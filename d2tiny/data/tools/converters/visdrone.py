"""Read VisDrone-DET: ``images/*.jpg`` and ``annotations/*.txt``."""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from d2tiny.data.coco.findings import Findings
from d2tiny.data.coco.values import parse_number
from d2tiny.data.datasets.categories import VISDRONE_CLASSES
from d2tiny.data.tools.converters.base import RawImage, RawObject, find_folder, read_label_texts

__all__ = ["read_visdrone"]

_REGION, _OTHERS = 0, len(VISDRONE_CLASSES) + 1
_TRACK_COLUMNS = (9, 10)  # frame and track number come first, so that all others mean something else


def read_visdrone(
    source: Path, findings: Findings, *, images: Path | None = None, labels: Path | None = None
) -> tuple[Path, Iterator[RawImage]]:
    """Read lines ``left,top,width,height,score,category,truncation,occlusion``.

    Category 0 becomes an ignored region of the image, 11 ("others") an ignored box, and a score of 0 marks an ignored
    object. Truncation and occlusion become keys of the annotation. Lines of videos (VisDrone-VID, UAVDT), which have
    more columns, are left out.

    Args:
        source: a folder like ``VisDrone2019-DET-val``.
        findings: gets what is left out.
        images: folder of the images, by default ``source/images``.
        labels: folder of the texts, by default ``source/annotations``.

    Returns:
        The image folder, and the images one by one.

    Raises:
        DatasetError: a folder is missing or holds no images.
    """
    root = find_folder(source, ["images"], images, "images")
    texts = find_folder(source, ["annotations", "labels"], labels, "labels")
    return root, read_label_texts(root, texts, findings, partial(_add_line, findings))


def _add_line(findings: Findings, raw: RawImage, line: str, where: str) -> None:
    words = line.rstrip(",").split(",")
    if len(words) in _TRACK_COLUMNS:
        findings.add("lines of nine or ten columns (VisDrone-VID, VisDrone-MOT, UAVDT), left out", where, "error")
        return
    numbers = [number for number in map(parse_number, words) if number is not None]
    if not len(words) == len(numbers) == 8 or not all(n.is_integer() for n in numbers[5:]) or math.isnan(numbers[4]):
        findings.add("lines that are not eight numbers, left out", where)
        return
    x, y, w, h, score = numbers[:5]
    kind, truncation, occlusion = map(int, numbers[5:])
    extra = {"truncation": truncation, "occlusion": occlusion}
    box = (x, y, w, h)
    if kind == _REGION:
        raw.ignored_regions.append(box)
    elif kind == _OTHERS:
        raw.ignored_boxes.append(box)
    elif not 0 < kind < _OTHERS:
        findings.add("objects of unknown classes, left out", where, "error")
    else:
        raw.objects.append(RawObject(VISDRONE_CLASSES[kind - 1], box, ignore=score == 0, extra=extra, where=where))
