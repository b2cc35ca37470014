"""COCO json as exporters write it: other keys, ids as text, blanks around names."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from d2tiny.data.coco.boxes import fitting_area, has_area, is_ignored, read_box
from d2tiny.data.coco.document import REGION_KEYS, hashable, normalise_keys, read_regions, without_nan
from d2tiny.data.coco.findings import Findings
from d2tiny.data.coco.source import relative_name
from d2tiny.data.tools.converters.base import RawImage, RawObject, image_size
from d2tiny.utils.errors import DatasetError
from d2tiny.utils.files import read_json

__all__ = ["coco_class_names", "read_coco"]


def _read(path: Path, findings: Findings) -> dict[str, Any]:
    return normalise_keys(read_json(path), path, findings)


def coco_class_names(path: Path) -> tuple[str, ...]:
    """Return the class names of a json by rising id.

    Raises:
        DatasetError: it is no COCO detection json.
    """
    categories = _read(path, Findings())["categories"]
    try:
        if not all(c["name"] for c in categories):
            raise ValueError("an empty name")
        return tuple(str(c["name"]).strip() for c in sorted(categories, key=lambda c: int(c["id"])))
    except (KeyError, TypeError, ValueError) as err:
        raise DatasetError(f"{path}: a category without id or name: {err}.") from err


def read_coco(source: Path, findings: Findings, *, images: Path | None = None) -> tuple[Path, Iterator[RawImage]]:
    """Read a COCO json.

    Args:
        source: the json.
        findings: gets what is left out, such as entries whose image is missing.
        images: folder of the images; by default that of the json.

    Returns:
        The image folder, and the images one by one.

    Raises:
        DatasetError: it is no COCO detection json.
    """
    root = images or source.parent
    if not root.is_dir():
        raise DatasetError(f"{root}: no such folder. Name it with --images.")
    return root, _images(_read(source, findings), source, root, findings)


def _images(data: dict[str, Any], source: Path, root: Path, findings: Findings) -> Iterator[RawImage]:
    names = {hashable(c.get("id")): str(c.get("name", "")) for c in data["categories"]}
    if len(names) < len(data["categories"]):
        raise DatasetError(f"{source}: two categories share an id.")
    by_image: dict[Any, list[dict[str, Any]]] = {hashable(image.get("id")): [] for image in data["images"]}
    if len(by_image) < len(data["images"]):
        raise DatasetError(f"{source}: two images share an id. `d2tiny check` says which.")
    for annotation in data["annotations"]:
        if hashable(annotation.get("image_id")) not in by_image:
            where = f"annotation {annotation.get('id')} of image {annotation.get('image_id')}"
            findings.add("annotations of an unknown image, left out", where)
            continue
        by_image[hashable(annotation.get("image_id"))].append(annotation)
    for image in data["images"]:
        name = image.get("file_name")
        pure = relative_name(name)
        if pure is None:
            findings.add(
                "file names that leave the image folder, left out", f"image {image.get('id')}: {name}", "error"
            )
            continue
        if not (root / pure).is_file():
            findings.add("missing images, left out", str(root / pure), "error")
            continue
        size = image_size(root / pure, findings)
        if size is None:
            continue
        stated = (image.get("width"), image.get("height"))
        if stated != size:
            findings.add("images of another size than stated", f"{name}: stated {stated}, is {size}", "error")
            continue
        raw = RawImage(root / pure, size)
        raw.extra = _other_keys(image, {"id", "file_name", "width", "height", *REGION_KEYS}, findings)
        for key in REGION_KEYS:
            getattr(raw, key).extend(read_regions(image, key, findings))
        for annotation in by_image[hashable(image.get("id"))]:
            _add(raw, annotation, names, findings)
        yield raw


def _other_keys(entry: dict[str, Any], standard: set[str], findings: Findings) -> dict[str, Any]:
    """Return the keys that are not COCO's own, in the order of the file."""
    return without_nan({k: v for k, v in entry.items() if k not in standard}, f"id {entry.get('id')}", findings)


def _add(raw: RawImage, annotation: dict[str, Any], names: dict[Any, str], findings: Findings) -> None:
    where = f"{raw.path.name}, annotation {annotation.get('id')}"
    box = read_box(annotation.get("bbox"))
    if isinstance(box, str):
        findings.add(f"{box}, left out", f"{where}: {annotation.get('bbox')}")
        return
    if hashable(annotation.get("category_id")) not in names:
        findings.add("objects of unknown classes, left out", f"{where}: {annotation.get('category_id')}", "error")
        return
    area = fitting_area(annotation, box[2], box[3])
    if area is None and annotation.get("area") is not None and has_area(box):
        findings.add("areas that do not fit their box, replaced by width x height", f"{where}: {annotation['area']}")
    standard = {"id", "image_id", "category_id", "bbox", "area", "iscrowd", "ignore"}
    extra = _other_keys(annotation, standard, findings)
    x, y, w, h = box
    raw.objects.append(
        RawObject(names[hashable(annotation.get("category_id"))], (x, y, w, h), area, is_ignored(annotation), extra)
    )
