"""Read HIT-UAV: ``normal_json`` of the authors' repository, with ``annotations/*.json`` and a folder of each split."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from d2tiny.data.coco.findings import Findings
from d2tiny.data.datasets.categories import HITUAV_CLASSES
from d2tiny.data.tools.converters.base import RawImage, RawObject, find_folder
from d2tiny.data.tools.converters.coco import read_coco
from d2tiny.utils.errors import ConfigError, DatasetError

__all__ = ["read_hituav"]

_NAMES = dict(zip(("Person", "Car", "Bicycle", "OtherVehicle"), HITUAV_CLASSES, strict=True))
_IGNORED = "DontCare"


def read_hituav(
    source: Path, findings: Findings, *, split: str | None = None, images: Path | None = None
) -> tuple[Path, Iterator[RawImage]]:
    """Read a split of HIT-UAV (Suo et al., Scientific Data 10:227, 2023), with axis-aligned boxes.

    A box of ``DontCare`` becomes an ignored object of each class. Outlines, which repeat the corners of the boxes, are
    left out.

    Args:
        source: the repository, its folder ``normal_json``, or one of the json files.
        findings: gets what is left out.
        split: ``train``, ``val`` or ``test``; not with a json file.
        images: folder of the images; by default that of the split's name beside ``annotations``.

    Returns:
        The image folder, and the images one by one.

    Raises:
        ConfigError: ``split`` is missing, or is given with a json file.
        DatasetError: the json or the folder of the images is missing.
    """
    labels = _labels(source, split)
    root = find_folder(labels.parent.parent, [labels.stem], images, "images")
    _, raws = read_coco(labels, findings, images=root)
    return root, (_renamed(raw) for raw in raws)


def _labels(source: Path, split: str | None) -> Path:
    """Return the json of a split."""
    if source.is_file():
        if split is not None:
            raise ConfigError(f"{source} is the json of one split; leave --split {split} out, or name its folder.")
        return source
    base = source / "normal_json" if (source / "normal_json").is_dir() else source
    folder = find_folder(base, ["annotations"], None, "labels")
    known = ", ".join(sorted(file.stem for file in folder.glob("*.json"))) or "no json"
    if split is None:
        raise ConfigError(f"{folder} has one json for each split; choose one with --split (there: {known}).")
    path = folder / f"{split}.json"
    if not path.is_file():
        raise DatasetError(f"No {path}. Choose another with --split (there: {known}).")
    return path


def _renamed(raw: RawImage) -> RawImage:
    """Return an image with d2tiny's class names; other names stay, and are counted as unknown later."""
    objects: list[RawObject] = []
    for item in raw.objects:
        extra = {key: value for key, value in item.extra.items() if key != "segmentation"}
        if item.label == _IGNORED:
            objects += [replace(item, label=name, ignore=True, extra=extra) for name in HITUAV_CLASSES]
        else:
            objects.append(replace(item, label=_NAMES.get(item.label, item.label), extra=extra))
    return replace(raw, objects=objects)
