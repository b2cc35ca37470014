"""A dataset as Detectron2's dicts: the view of a COCO json that training works on."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from detectron2.data import MetadataCatalog
from detectron2.structures import BoxMode

from d2tiny.data.coco.boxes import BOX_PROBLEMS, CLIP_TOLERANCE, clip_boxes
from d2tiny.data.coco.document import REGION_KEYS
from d2tiny.data.coco.entries import shown
from d2tiny.data.coco.findings import Findings
from d2tiny.data.coco.reader import CocoData, CocoImage, load_coco
from d2tiny.data.coco.source import DatasetSource, require_name
from d2tiny.data.coco.values import parse_size
from d2tiny.utils.errors import DatasetError
from d2tiny.utils.memory import paused_gc

__all__ = ["load_classes", "load_coco_like"]

logger = logging.getLogger(__name__)

Record = dict[str, Any]


@paused_gc()
def load_coco_like(source: DatasetSource) -> list[Record]:
    """Load a dataset in Detectron2's format.

    Annotation ids may start at 0, repeat or be missing; ``ignore`` or ``iscrowd`` marks regions that are not learned,
    and so do ``ignored_regions`` and ``ignored_boxes`` of an image; boxes are clipped to the image; boxes without area,
    outside their image or not finite are left out, counted and logged; category ids need not be contiguous; images
    without annotations are kept. Classes and paths go to the metadata of ``source.name``.

    Returns:
        One dict for each image: ``file_name, image_id, height, width`` and ``annotations`` with ``bbox`` (XYWH),
        ``bbox_mode``, contiguous ``category_id`` and ``iscrowd``.

    Raises:
        DatasetError: the file is missing or unusable as a whole; the message names it.
    """
    path = source.json_file()
    data = load_coco(path)
    id_map, classes = _class_map(source, path, data)
    records = _image_records(source, path, data)
    _set_metadata(source, path, id_map, classes)
    findings = data.findings.copy()
    _add_annotations(records, data, id_map, findings)
    findings.log(logger, path)
    if data.listed and not any(record["annotations"] for record in records):
        raise DatasetError(f"{path}: no annotation could be used: {findings}.")
    return records


def load_classes(source: DatasetSource) -> tuple[str, ...]:
    """Return the class names of a dataset in the order of contiguous ids; reads no image folder.

    Raises:
        DatasetError: the json is missing or unusable, or has categories that are no classes of the dataset.
    """
    path = source.json_file()
    return _class_map(source, path, load_coco(path))[1]


def _class_map(source: DatasetSource, path: Path, data: CocoData) -> tuple[dict[int, int], tuple[str, ...]]:
    """Map category ids to contiguous ids, by name where the class list is known; returns the class names too."""
    names = {category.id: category.name.strip() for category in data.categories}
    if source.classes is None:
        ordered = sorted(names)
        return {cid: i for i, cid in enumerate(ordered)}, tuple(names[cid] for cid in ordered)
    index = {name: i for i, name in enumerate(source.classes)}
    unknown = sorted(set(names.values()) - set(index))
    if unknown:
        raise DatasetError(
            f"{path}: categories {unknown} are not classes of '{source.name}' {list(source.classes)}. "
            "Register the file with register_coco_like under another name to use its own classes."
        )
    return {cid: index[name] for cid, name in names.items()}, source.classes


def _set_metadata(source: DatasetSource, path: Path, id_map: dict[int, int], classes: tuple[str, ...]) -> None:
    values = {
        "thing_classes": list(classes),
        "thing_dataset_id_to_contiguous_id": id_map,
        "json_file": str(path),
        "image_root": str(source.image_dirs()[0]),
        "evaluator_type": "coco",
    }
    known = MetadataCatalog.get(source.name)
    if any(known.get(key, value) != value for key, value in values.items()):
        MetadataCatalog.remove(source.name)  # the file or $DETECTRON2_DATASETS changed; metadata refuses other values
    MetadataCatalog.get(source.name).set(**values)


def _image_records(source: DatasetSource, path: Path, data: CocoData) -> list[Record]:
    """Return one record for each image, with its ignored regions as annotations.

    Raises:
        DatasetError: an image without a file name, width or height, or with a name that leaves the image folder.
    """
    files = _image_files(source, path, data)
    records = []
    for file, image in zip(files, data.images, strict=True):
        height, width = (_side(image, side, path) for side in ("height", "width"))
        ignored = [_annotation(list(box), 0, True) for key in REGION_KEYS for box in getattr(image, key)]
        records.append(
            {"file_name": file, "image_id": image.id, "height": height, "width": width, "annotations": ignored}
        )
    return records


def _side(image: CocoImage, side: str, path: Path) -> int:
    """Return the height or width of an image in px."""
    given = getattr(image, side)
    size = parse_size(given)
    if size is None:
        problem = "has no" if given is msgspec.UNSET or given is None else f"has {shown(given)!r} px as"
        raise DatasetError(
            f"{path}: image {image.id} ({shown(image.file_name)}) {problem} '{side}'; it must be a whole number of px "
            "from 1. `d2tiny convert coco --images` writes a copy with the sizes of the files."
        )
    return size


def _image_files(source: DatasetSource, path: Path, data: CocoData) -> list[str]:
    """Return the full path of each image; missing files are left to the check before training."""
    folders = source.image_dirs()
    files = []
    for index, image in enumerate(data.images):
        given = None if image.file_name is msgspec.UNSET else image.file_name
        name = require_name(given, data.file_image_id(index), path)
        file = folders[0] / name
        if len(folders) > 1:
            file = next((folder / name for folder in folders if (folder / name).exists()), file)
        files.append(str(file))
    return files


def _add_annotations(records: list[Record], data: CocoData, id_map: Mapping[int, int], findings: Findings) -> None:
    """Add the usable annotations to their images, with clipped boxes, and count the others."""
    sizes = np.array([(r["width"], r["height"]) for r in records], dtype=np.float64).reshape(-1, 2)[data.image]
    boxes, problems = clip_boxes(data.boxes, sizes)
    usable = problems < 0
    for i in np.flatnonzero(~usable).tolist():
        box = [int(v) if v.is_integer() else v for v in data.boxes[i].tolist()]
        findings.add(BOX_PROBLEMS[problems[i]], f"{data.where(i)}, bbox {box}")
    for i in np.flatnonzero(usable & (np.abs(boxes - data.boxes) > CLIP_TOLERANCE).any(axis=1)).tolist():
        findings.add("boxes clipped to their image", data.where(i))
    classes = np.array([id_map[category.id] for category in data.categories], dtype=np.int64)[data.category[usable]]
    columns = (data.image[usable], boxes[usable], classes, data.ignore[usable])
    for image, box, cls, ignore in zip(*(column.tolist() for column in columns), strict=True):
        records[image]["annotations"].append(_annotation(box, cls, ignore))


def _annotation(box: list[float], contiguous_id: int, ignored: bool) -> dict[str, Any]:
    """Return an annotation; an ignored one holds for all classes, whatever its category says."""
    return {
        "bbox": box,
        "bbox_mode": BoxMode.XYWH_ABS,
        "category_id": contiguous_id,
        "iscrowd": int(ignored),
    }
