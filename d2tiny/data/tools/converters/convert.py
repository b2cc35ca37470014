"""The formats that can be converted, and one function for all of them."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from d2tiny.data.coco.document import REGION_KEYS
from d2tiny.data.coco.findings import Findings
from d2tiny.data.datasets.categories import (
    AITOD_CLASSES,
    DIOR_CLASSES,
    DOTA_V2_CLASSES,
    HITUAV_CLASSES,
    VISDRONE_CLASSES,
)
from d2tiny.data.tools.converters.base import Classes, RawImage, to_coco
from d2tiny.data.tools.converters.coco import coco_class_names, read_coco
from d2tiny.data.tools.converters.dota import read_dota
from d2tiny.data.tools.converters.hituav import read_hituav
from d2tiny.data.tools.converters.scaling import Scaling, scaled_images
from d2tiny.data.tools.converters.selection import selected_images
from d2tiny.data.tools.converters.visdrone import read_visdrone
from d2tiny.data.tools.converters.voc import read_dior, read_voc
from d2tiny.data.tools.converters.yolo import read_yolo
from d2tiny.data.tools.converters.yolo_names import find_yolo_classes
from d2tiny.utils.errors import ConfigError, DatasetError, did_you_mean

__all__ = ["FORMATS", "Conversion", "convert_dataset"]

Reader = Callable[..., tuple[Path, Iterator[RawImage]]]


@dataclass(frozen=True)
class Format:
    """A native format.

    Attributes:
        read: yields the images of a dataset.
        classes: class names, a function that finds them, or None for those that occur (YOLO's have numbers in files).
        help: description for the command line.
    """

    read: Reader
    classes: tuple[str, ...] | Callable[[Path], tuple[str, ...]] | None
    help: str


FORMATS: dict[str, Format] = {
    "visdrone": Format(read_visdrone, VISDRONE_CLASSES, "VisDrone-DET: images/, annotations/*.txt"),
    "dota": Format(read_dota, DOTA_V2_CLASSES, "DOTA v1.0-v2.0: images/, labelTxt/*.txt"),
    "dior": Format(read_dior, DIOR_CLASSES, "DIOR: JPEGImages-trainval/, JPEGImages-test/, Annotations/, ImageSets/"),
    "hituav": Format(
        read_hituav, HITUAV_CLASSES, "HIT-UAV: annotations/{train,val,test}.json, train/, val/, test/ (normal_json)"
    ),
    "voc": Format(read_voc, None, "Pascal VOC: JPEGImages/, Annotations/*.xml, ImageSets/"),
    "yolo": Format(read_yolo, None, "YOLO texts, beside the images or in labels/"),
    "coco": Format(read_coco, coco_class_names, "COCO json with odd keys, wrong areas, missing images; DTOD"),
    "aitod": Format(read_coco, AITOD_CLASSES, "COCO json with AI-TOD's eight classes"),
}


@dataclass(frozen=True)
class Conversion:
    """A converted dataset.

    Attributes:
        data: COCO dict.
        root: folder that file names are relative to.
        findings: what was left out or changed.
    """

    data: dict[str, Any]
    root: Path
    findings: Findings

    def summary(self) -> str:
        """Return the numbers of images, objects, classes and ignored regions as one line."""
        ignored = sum(a["iscrowd"] for a in self.data["annotations"])
        regions = sum(len(i.get(k, ())) for i in self.data["images"] for k in REGION_KEYS)
        return (
            f"{len(self.data['images'])} images, {len(self.data['annotations']) - ignored} objects of "
            f"{len(self.data['categories'])} classes, {ignored + regions} ignored objects and regions"
        )


def _yolo_names(source: Path, given: Sequence[str] | None, findings: Findings) -> dict[int, str]:
    """Return the names of the classes' numbers: those of the files, else the given ones."""
    try:
        return find_yolo_classes(source, findings)
    except DatasetError:
        if given is None:
            raise
        return dict(enumerate(given))


def _unused_names(
    rename: Mapping[str, str],
    hidden: Mapping[str, Sequence[str]],
    native: tuple[str, ...] | None,
    findings: Findings,
) -> None:
    """Count renamed, ignored or dropped classes that the format does not have: probably misspelled."""
    if native is None:
        return
    known = set(native)
    for name in rename.keys() - known:
        findings.add("renamed classes that do not exist", f"'{name}'. {did_you_mean(name, known)}")
    for what, names in hidden.items():
        for name in set(names) - known - set(rename.values()):
            findings.add(f"{what} classes that do not exist", f"'{name}'. {did_you_mean(name, known)}")


def convert_dataset(
    name: str,
    source: Path,
    *,
    classes: Sequence[str] | None = None,
    rename: Mapping[str, str] | None = None,
    ignore_classes: Sequence[str] = (),
    drop_classes: Sequence[str] = (),
    where: Sequence[tuple[str, str]] = (),
    scaling: Scaling | None = None,
    progress: bool = True,
    **options: Any,
) -> Conversion:
    """Read a dataset in its own format and convert it to COCO; nothing is written but smaller images.

    Args:
        name: a key of :data:`FORMATS`.
        source: folder (or json) of the dataset.
        classes: class names in the order of their ids, instead of the format's.
        rename: native class name → name in the json.
        ignore_classes: classes whose objects become ``ignored_boxes``.
        drop_classes: classes whose objects are left out, and so are background.
        where: keys and globs of the images to take, see :func:`selected_images`; empty takes all.
        scaling: make the images smaller, and the boxes with them; None leaves them as they are.
        progress: show a progress bar.
        options: arguments of the format's reader, such as ``images, labels, split, area``.

    Raises:
        ConfigError: unknown format or option, a class that is given twice or both ignored and dropped, or smaller
            images that would be written among other files.
        DatasetError: nothing could be converted, or no image is chosen. Single broken files and lines are findings.
    """
    if name not in FORMATS:
        raise ConfigError(f"Unknown format '{name}'. {did_you_mean(name, FORMATS)}")
    if not source.exists():
        raise DatasetError(f"{source}: no such file or folder.")
    chosen = FORMATS[name]
    allowed = set(inspect.signature(chosen.read).parameters) - {"source", "findings", "names"}
    for key in options:
        if key not in allowed:
            raise ConfigError(f"Format '{name}' has no option '{key}'. {did_you_mean(key, allowed)}")
    if classes is not None and len(set(classes)) < len(classes):
        raise ConfigError(f"classes={list(classes)} names a class twice; --rename joins classes.")
    if both := sorted(set(drop_classes) & {*ignore_classes, *(classes or ())}):
        raise ConfigError(f"drop_classes={list(drop_classes)}: {', '.join(both)} cannot be kept or ignored as well.")
    findings = Findings()
    rename, hidden = dict(rename or {}), {*ignore_classes, *drop_classes}
    native = chosen.classes(source) if callable(chosen.classes) else chosen.classes
    if name == "yolo":
        options["names"] = _yolo_names(source, classes, findings)
        native = tuple(options["names"].values())
    names = tuple(classes) if classes is not None else None
    if names is None and native is not None:  # renaming may join classes
        names = tuple(dict.fromkeys(rename.get(n, n) for n in native if rename.get(n, n) not in hidden))
    root, images = chosen.read(source, findings, **options)
    if where:
        images = selected_images(images, root, where, findings)
    if scaling is not None:
        root, images = scaled_images(images, root, scaling, findings, progress=progress)
        progress = False  # it has its own bar
    _unused_names(rename, {"ignored": ignore_classes, "dropped": drop_classes}, native, findings)
    listed = Classes(names, rename, frozenset(ignore_classes), frozenset(drop_classes))
    data = to_coco(images, root, listed, findings, progress=progress)
    return Conversion(data, root, findings)
