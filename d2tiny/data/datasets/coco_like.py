"""A loader of COCO-style json that survives what real files hold."""

from __future__ import annotations

import json
import logging
import math
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from detectron2.data import MetadataCatalog
from detectron2.structures import BoxMode

from d2tiny.data.datasets.source import DatasetSource
from d2tiny.utils.errors import DatasetError

__all__ = ["LoadReport", "load_coco_like", "read_coco_json"]

logger = logging.getLogger(__name__)


@dataclass
class LoadReport:
    """What the loader left out or changed, counted by reason, with the first example of each."""

    counts: Counter[str] = field(default_factory=Counter)
    examples: dict[str, str] = field(default_factory=dict)

    def add(self, reason: str, example: str) -> None:
        """Count one case."""
        self.counts[reason] += 1
        self.examples.setdefault(reason, example)

    def __str__(self) -> str:
        return "; ".join(f"{n} {reason} (first: {self.examples[reason]})" for reason, n in self.counts.items())


def read_coco_json(path: Path) -> dict[str, Any]:
    """Read a COCO json and check its outline.

    Raises:
        DatasetError: not json (says line and column), or a key is missing.
    """
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as err:
        raise DatasetError(f"{path} is not a valid json file: {err}. Is the download complete?") from err
    if not isinstance(data, dict):
        raise DatasetError(f"{path}: expected a COCO object with images, annotations, categories.")
    for key in ("images", "annotations", "categories"):
        if not isinstance(data.get(key), list):
            raise DatasetError(f"{path}: the list '{key}' is missing; this is not a COCO detection json.")
    return data


def _class_map(
    source: DatasetSource, path: Path, categories: list[dict[str, Any]]
) -> tuple[dict[int, int], tuple[str, ...]]:
    """Map json category ids to contiguous ids, by name where the class list is known."""
    names = {int(c["id"]): str(c["name"]).strip() for c in categories}
    if len(names) != len(categories):
        raise DatasetError(f"{path}: two categories share an id.")
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


def _find_images(source: DatasetSource, path: Path, images: list[dict[str, Any]]) -> dict[int, str]:
    """Full path of each image id; missing files are left to the check before training."""
    dirs = source.image_dirs()
    found: dict[int, str] = {}
    for image in images:
        name = str(image["file_name"])
        pure = PurePosixPath(name.replace("\\", "/"))
        if pure.is_absolute() or ".." in pure.parts:
            raise DatasetError(f"{path}: file_name '{name}' (image {image['id']}) leaves the image folder.")
        if int(image["id"]) in found:
            raise DatasetError(f"{path}: image id {image['id']} occurs twice ('{name}').")
        place = dirs[0] / pure
        if len(dirs) > 1:
            place = next((d / pure for d in dirs if (d / pure).exists()), place)
        found[int(image["id"])] = str(place)
    return found


def _clean_box(annotation: dict[str, Any], width: float, height: float) -> list[float] | str:
    """Return the XYWH box clipped to the image, or the reason to leave it out."""
    box = annotation.get("bbox")
    try:
        x, y, w, h = (float(v) for v in box)  # type: ignore[union-attr]
    except (TypeError, ValueError):
        return "boxes that are not four numbers"
    if not all(math.isfinite(v) for v in (x, y, w, h)):
        return "boxes with NaN or infinity"
    if w <= 0 or h <= 0:
        return "boxes without area"
    x1, y1, x2, y2 = max(x, 0.0), max(y, 0.0), min(x + w, width), min(y + h, height)
    if x2 <= x1 or y2 <= y1:
        return "boxes outside their image"
    return [x1, y1, x2 - x1, y2 - y1]


def load_coco_like(source: DatasetSource) -> list[dict[str, Any]]:
    """Load a dataset in Detectron2's format.

    Annotation ids may start at 0, repeat or be missing; ``ignore`` or ``iscrowd`` marks regions that are not
    learned; boxes are clipped to the image; boxes without area, outside their image or not finite are left out,
    counted and logged; category ids need not be contiguous; images without annotations are kept. Classes and paths
    go to the metadata of ``source.name``.

    Returns:
        One dict for each image: ``file_name, image_id, height, width`` and ``annotations`` with ``bbox`` (XYWH),
        ``bbox_mode``, contiguous ``category_id`` and ``iscrowd``.

    Raises:
        DatasetError: the file is missing or unusable as a whole; the message names it.
    """
    path = source.json_file()
    data = read_coco_json(path)
    try:
        id_map, classes = _class_map(source, path, data["categories"])
        files = _find_images(source, path, data["images"])
        records: dict[int, dict[str, Any]] = {
            int(image["id"]): {
                "file_name": files[int(image["id"])],
                "image_id": int(image["id"]),
                "height": int(image["height"]),
                "width": int(image["width"]),
                "annotations": [],
            }
            for image in data["images"]
        }
    except KeyError as err:
        raise DatasetError(f"{path}: an image or category has no {err}.") from err
    if getattr(MetadataCatalog.get(source.name), "json_file", str(path)) != str(path):
        MetadataCatalog.remove(source.name)  # $DETECTRON2_DATASETS changed; metadata refuses other values
    MetadataCatalog.get(source.name).set(
        thing_classes=list(classes),
        thing_dataset_id_to_contiguous_id=id_map,
        json_file=str(path),
        image_root=str(source.image_dirs()[0]),
        evaluator_type="coco",
    )
    report = LoadReport()
    for annotation in data["annotations"]:
        where = f"annotation id {annotation.get('id')} of image id {annotation.get('image_id')}"
        record = records.get(annotation.get("image_id"))
        if record is None:
            report.add("annotations of an unknown image", where)
            continue
        if annotation.get("category_id") not in id_map:
            report.add("annotations of an unknown category", where)
            continue
        box = _clean_box(annotation, record["width"], record["height"])
        if isinstance(box, str):
            report.add(box, f"{where}, bbox {annotation.get('bbox')}")
            continue
        if any(abs(a - b) > 0.01 for a, b in zip(box, annotation["bbox"], strict=True)):
            report.add("boxes clipped to their image", where)
        record["annotations"].append(
            {
                "bbox": box,
                "bbox_mode": BoxMode.XYWH_ABS,
                "category_id": id_map[annotation["category_id"]],
                "iscrowd": int(bool(annotation.get("iscrowd", 0)) or bool(annotation.get("ignore", 0))),
            }
        )
    if report.counts:
        logger.warning("%s: %s", path, report)
    return list(records.values())
