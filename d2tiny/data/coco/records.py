"""A loader of COCO-style json that survives what real files hold."""

from __future__ import annotations

import logging
import math
from collections import Counter
from pathlib import Path, PurePosixPath
from typing import Any

from detectron2.data import MetadataCatalog
from detectron2.structures import BoxMode

from d2tiny.data.coco.findings import Findings
from d2tiny.data.coco.source import DatasetSource
from d2tiny.utils.errors import DatasetError
from d2tiny.utils.files import read_json

__all__ = [
    "REGION_KEYS",
    "category_numbers",
    "fitting_area",
    "hashable",
    "image_numbers",
    "is_ignored",
    "load_coco_like",
    "read_box",
    "read_coco_json",
    "read_regions",
    "relative_name",
]

logger = logging.getLogger(__name__)

# Lists of XYWH boxes that an image may have besides its annotations. Both hold for all classes and are neither learned
# nor punished; ``ignored_regions`` are areas without labels, ``ignored_boxes`` single objects of no class.
REGION_KEYS = ("ignored_regions", "ignored_boxes")


def read_coco_json(path: Path) -> dict[str, Any]:
    """Read a COCO json and check its outline.

    Raises:
        DatasetError: not json (says line and column), or a key is missing.
    """
    data = read_json(path)
    if not isinstance(data, dict):
        raise DatasetError(f"{path}: expected a COCO object with images, annotations, categories.")
    for key in ("images", "annotations", "categories"):
        if not isinstance(data.get(key), list):
            raise DatasetError(f"{path}: the list '{key}' is missing; this is not a COCO detection json.")
    return data


def _number(value: Any) -> int:
    """An id as an integer; ``"0012"`` counts."""
    if isinstance(value, bool) or (isinstance(value, float) and value != int(value)):
        raise ValueError(f"{value!r} is no id")
    return int(value)


def image_numbers(images: list[dict[str, Any]], path: Path) -> dict[Any, int]:
    """Map the image ids of a json to integers: themselves where they are numbers, else their position.

    Raises:
        DatasetError: an id twice, or missing.
    """
    try:
        ids = [image["id"] for image in images]
        hash(tuple(ids))
    except TypeError as err:
        raise DatasetError(f"{path}: an image id is neither a number nor a text ({err}).") from err
    except KeyError as err:
        raise DatasetError(f"{path}: an image has no {err}.") from err
    try:
        numbers = {raw: _number(raw) for raw in ids}
    except (TypeError, ValueError):
        numbers = {raw: i for i, raw in enumerate(dict.fromkeys(ids), start=1)}
    seen = Counter(numbers[raw] for raw in ids)
    twice = [raw for raw in ids if seen[numbers[raw]] > 1]
    if twice:
        raise DatasetError(f"{path}: image id {twice[0]!r} occurs twice.")
    return numbers


def category_numbers(categories: list[dict[str, Any]], path: Path) -> dict[Any, int]:
    """Map the category ids of a json to integers.

    Raises:
        DatasetError: an id twice, missing, or no number.
    """
    try:
        numbers = {c["id"]: _number(c["id"]) for c in categories}
        [c["name"] for c in categories]
    except KeyError as err:
        raise DatasetError(f"{path}: a category has no {err}.") from err
    except (TypeError, ValueError) as err:
        raise DatasetError(f"{path}: a category id is no number: {err}.") from err
    if len(set(numbers.values())) != len(categories):
        raise DatasetError(f"{path}: two categories share an id.")
    return numbers


def _class_map(
    source: DatasetSource, path: Path, categories: list[dict[str, Any]], numbers: dict[Any, int]
) -> tuple[dict[int, int], tuple[str, ...]]:
    """Map integer category ids to contiguous ids, by name where the class list is known."""
    names = {numbers[c["id"]]: str(c["name"]).strip() for c in categories}
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


def relative_name(name: object) -> PurePosixPath | None:
    """Return a ``file_name`` as a path below the image folder, or None if it is empty or leaves the folder."""
    pure = PurePosixPath(str(name or "").replace("\\", "/"))
    if pure.is_absolute() or not pure.parts or ".." in pure.parts or ":" in pure.parts[0]:
        return None
    return pure


def fitting_area(annotation: dict[str, Any], width: float, height: float) -> float | None:
    """Return the annotation's area in px², or None if it is missing, no number, or larger than its box."""
    area = annotation.get("area")
    if isinstance(area, bool) or not isinstance(area, int | float) or not 0 < area <= width * height * 1.01 + 1:
        return None
    return float(area)


def _find_images(source: DatasetSource, path: Path, images: list[dict[str, Any]]) -> list[str]:
    """Full path of each image; missing files are left to the check before training."""
    dirs = source.image_dirs()
    found = []
    for image in images:
        pure = relative_name(image["file_name"])
        if pure is None:
            raise DatasetError(
                f"{path}: file_name '{image['file_name']}' (image {image['id']}) leaves the image folder."
            )
        place = dirs[0] / pure
        if len(dirs) > 1:
            place = next((d / pure for d in dirs if (d / pure).exists()), place)
        found.append(str(place))
    return found


def read_box(annotation: dict[str, Any]) -> list[float] | str:
    """Return the XYWH box as four finite floats, or the reason why it is none."""
    try:
        box = [float(v) for v in annotation["bbox"]]
    except (KeyError, TypeError, ValueError):
        return "boxes that are not four numbers"
    if len(box) != 4:
        return "boxes that are not four numbers"
    return box if all(math.isfinite(v) for v in box) else "boxes with NaN or infinity"


def hashable(value: Any) -> Any:
    """Return an id that can be looked up, whatever the file holds."""
    return value if isinstance(value, int | str | float) else repr(value)


def read_regions(image: dict[str, Any], key: str, findings: Findings) -> list[tuple[float, float, float, float]]:
    """Return the boxes of ``ignored_regions`` or ``ignored_boxes``, as far as they are four finite numbers."""
    boxes = image.get(key)
    result = []
    for box in boxes if isinstance(boxes, list) else []:
        read = read_box({"bbox": box})
        if isinstance(read, str):
            findings.add(f"{read}, left out", f"image {image.get('id')}, {key}: {box}")
        else:
            result.append((read[0], read[1], read[2], read[3]))
    if boxes is not None and not isinstance(boxes, list):
        findings.add("boxes that are not four numbers, left out", f"image {image.get('id')}, {key}: {boxes}")
    return result


def is_ignored(annotation: dict[str, Any]) -> bool:
    """Whether an annotation marks a region that is neither learned nor punished."""
    return bool(annotation.get("iscrowd", 0)) or bool(annotation.get("ignore", 0))


def _clip_box(box: list[float], width: float, height: float) -> list[float] | str:
    """Return the XYWH box clipped to the image, or the reason to leave it out."""
    x, y, w, h = box
    if w <= 0 or h <= 0:
        return "boxes without area"
    x1, y1, x2, y2 = max(x, 0.0), max(y, 0.0), min(x + w, width), min(y + h, height)
    if x2 <= x1 or y2 <= y1:
        return "boxes outside their image"
    return [x1, y1, x2 - x1, y2 - y1]


def load_coco_like(source: DatasetSource) -> list[dict[str, Any]]:
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
    data = read_coco_json(path)
    categories = category_numbers(data["categories"], path)
    id_map, classes = _class_map(source, path, data["categories"], categories)
    numbers = image_numbers(data["images"], path)
    report = Findings()
    try:
        files = _find_images(source, path, data["images"])
        records: dict[Any, dict[str, Any]] = {
            image["id"]: {
                "file_name": file,
                "image_id": numbers[image["id"]],
                "height": int(image["height"]),
                "width": int(image["width"]),
                "annotations": [_ignored(box) for key in REGION_KEYS for box in read_regions(image, key, report)],
            }
            for file, image in zip(files, data["images"], strict=True)
        }
    except DatasetError:
        raise
    except KeyError as err:
        raise DatasetError(f"{path}: an image has no {err}.") from err
    except (TypeError, ValueError) as err:
        raise DatasetError(f"{path}: height and width of an image must be numbers ({err}).") from err
    if getattr(MetadataCatalog.get(source.name), "json_file", str(path)) != str(path):
        MetadataCatalog.remove(source.name)  # $DETECTRON2_DATASETS changed; metadata refuses other values
    MetadataCatalog.get(source.name).set(
        thing_classes=list(classes),
        thing_dataset_id_to_contiguous_id=id_map,
        json_file=str(path),
        image_root=str(source.image_dirs()[0]),
        evaluator_type="coco",
    )
    contiguous = {raw: id_map[number] for raw, number in categories.items()}
    for annotation in data["annotations"]:
        _add_annotation(annotation, records, contiguous, report)
    report.log(logger, path)
    if data["annotations"] and not any(r["annotations"] for r in records.values()):
        raise DatasetError(f"{path}: no annotation could be used: {report}.")
    return list(records.values())


def _ignored(box: tuple[float, ...]) -> dict[str, Any]:
    """An ignored region; it holds for all classes, whatever its category says."""
    return {"bbox": list(map(float, box)), "bbox_mode": BoxMode.XYWH_ABS, "category_id": 0, "iscrowd": 1}


def _add_annotation(
    annotation: dict[str, Any], records: dict[Any, dict[str, Any]], classes: dict[Any, int], report: Findings
) -> None:
    """Add one annotation to its image, or count why not."""
    where = f"annotation id {annotation.get('id')} of image id {annotation.get('image_id')}"
    record = records.get(annotation.get("image_id"))
    if record is None:
        report.add("annotations of an unknown image", where)
        return
    if annotation.get("category_id") not in classes:
        report.add("annotations of an unknown category", where)
        return
    raw = read_box(annotation)
    box = raw if isinstance(raw, str) else _clip_box(raw, record["width"], record["height"])
    if isinstance(box, str):
        report.add(box, f"{where}, bbox {annotation.get('bbox')}")
        return
    if not isinstance(raw, str) and any(abs(a - b) > 0.01 for a, b in zip(box, raw, strict=True)):
        report.add("boxes clipped to their image", where)
    record["annotations"].append(
        {
            "bbox": box,
            "bbox_mode": BoxMode.XYWH_ABS,
            "category_id": classes[annotation["category_id"]],
            "iscrowd": int(is_ignored(annotation)),
        }
    )
