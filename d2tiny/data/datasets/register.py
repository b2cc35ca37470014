"""Register datasets under names; no file is read before a dataset is used."""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from detectron2.data import DatasetCatalog, MetadataCatalog

from d2tiny.data.coco.records import load_classes, load_coco_like
from d2tiny.data.coco.source import DatasetSource
from d2tiny.data.datasets.categories import (
    AITOD_CLASSES,
    COLOUR_CLASSES,
    DIOR_CLASSES,
    DOTA_V2_CLASSES,
    HITUAV_CLASSES,
    VISDRONE_CLASSES,
)
from d2tiny.utils.errors import DatasetError

__all__ = ["class_names", "find_source", "register_builtin", "register_coco_like"]

_SOURCES: dict[str, DatasetSource] = {}

# File names under which AI-TOD's json files are published or shared, by split.
_AITOD_JSONS = {
    "train": ("aitod_train_v1.json", "aitod_training_v1.0.json", "small_train_v1_1.0.json", "aitod_train.json"),
    "val": ("aitod_val_v1.json", "aitod_validation_v1.0.json", "small_val_v1_1.0.json", "aitod_val.json"),
    "trainval": (
        "aitod_trainval_v1.json",
        "small_trainval_v1_1.0.json",
        "aitod_trainval_v1.0.json",
        "aitod_trainval.json",
    ),
    "test": ("aitod_test_v1.json", "small_test_v1_1.0.json", "aitod_test_v1.0.json", "aitod_test.json"),
}
_AITODV2_JSONS = {
    "train": ("aitodv2_train.json", "small_train_v2_1.0.json", "small_train_v2_2.0.json"),
    "val": ("aitodv2_val.json", "small_val_v2_1.0.json", "small_val_v2_2.0.json"),
    "trainval": ("aitodv2_trainval.json", "small_trainval_v2_2.0.json", "small_trainval_v2_1.0.json"),
    "test": ("aitodv2_test.json", "small_test_v2_2.0.json", "small_test_v2_1.0.json"),
}

# The other datasets: name, splits, json files, image folders, classes; {} stands for the split. `d2tiny convert` writes
# the json files of VisDrone, DOTA and DIOR.
_OTHERS: tuple[tuple[str, tuple[str, ...], tuple[str, ...], tuple[str, ...], tuple[str, ...] | None], ...] = (
    ("aerial", ("train", "val"), ("aerial/instances_{}.json",), ("aerial/{}",), AITOD_CLASSES),
    ("synthetic", ("train", "val"), ("synthetic/instances_{}.json",), ("synthetic/{}",), AITOD_CLASSES),
    # Ships, vehicles and airplanes, from the two above: real tiles and drawn scenes to train on, tiles to test on.
    ("colour", ("train",), ("colour/instances_train.json",), ("colour/train", "aerial/train"), COLOUR_CLASSES),
    ("colour", ("drawn",), ("colour/instances_drawn.json",), ("colour/drawn", "synthetic/train"), COLOUR_CLASSES),
    (
        "colour",
        ("val", "val_permissive", "val_all"),
        ("colour/instances_{}.json",),
        ("colour/val", "aerial/val"),
        COLOUR_CLASSES,
    ),
    (
        "hituav",
        ("train", "val", "test"),
        ("hituav/instances_{}.json", "hituav/annotations/hituav_{}.json"),
        ("hituav/{}", "hituav/images/{}"),
        HITUAV_CLASSES,
    ),
    (
        "visdrone",
        ("train", "val", "test-dev"),
        ("visdrone/annotations/visdrone_{}.json",),
        ("visdrone/VisDrone2019-DET-{}/images", "visdrone/images/{}", "visdrone/images"),
        VISDRONE_CLASSES,
    ),
    (
        "dotav2",
        ("train", "val", "trainval"),
        ("dota/tiles/{}/instances.json", "dota/annotations/dota_v2.0_{}.json"),
        ("dota/tiles/{}/images", "dota/images/{}", "dota/images"),
        DOTA_V2_CLASSES,
    ),
    (
        "dior",
        ("train", "val", "trainval", "test"),
        ("dior/annotations/dior_{}.json",),
        ("dior", "dior/JPEGImages"),
        DIOR_CLASSES,
    ),
    (  # the class list is read from the user's json
        "dtod",
        ("train", "val", "test"),
        ("dtod/annotations/dtod_{}.json", "dtod/annotations/{}.json", "dtod/annotations/instances_{}.json"),
        ("dtod/images/{}", "dtod/{}", "dtod/images"),
        None,
    ),
)


def _register(source: DatasetSource) -> None:
    if _SOURCES.get(source.name) == source:
        return
    if source.name in DatasetCatalog.list():
        raise DatasetError(
            f"A dataset named '{source.name}' is registered already, with other files. Choose another name."
        )
    _SOURCES[source.name] = source
    DatasetCatalog.register(source.name, partial(load_coco_like, source))
    if source.classes is not None:
        MetadataCatalog.get(source.name).set(thing_classes=list(source.classes), evaluator_type="coco")


def register_coco_like(
    name: str,
    json_file: str | os.PathLike[str],
    images: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
    classes: Sequence[str] | None = None,
) -> None:
    """Register a COCO json under a name; repeating the same call has no effect.

    Args:
        name: name of the dataset in configs.
        json_file: COCO detection json; read when the dataset is first used.
        images: folder (or folders) that ``file_name`` is relative to.
        classes: class names in the order of contiguous ids; by default the json's categories by rising id.

    Raises:
        DatasetError: the name is registered already, with other files.
    """
    folders = [images] if isinstance(images, str | os.PathLike) else list(images)
    _register(
        DatasetSource(
            name,
            (str(Path(json_file).resolve()),),
            tuple(str(Path(folder).resolve()) for folder in folders),
            tuple(classes) if classes is not None else None,
        )
    )


def find_source(name: str) -> DatasetSource | None:
    """Return the source of a dataset that d2tiny registered, or None for other names."""
    return _SOURCES.get(name)


def class_names(name: str) -> list[str]:
    """Return the class names of a registered dataset in the order of contiguous ids; empty if it has none.

    Names that are not registered with the dataset are read from its json, without its images and annotations.

    Raises:
        DatasetError: the json is missing or unusable.
    """
    if not hasattr(MetadataCatalog.get(name), "thing_classes"):
        if (source := find_source(name)) is not None:
            return list(load_classes(source))
        if name in DatasetCatalog.list():
            DatasetCatalog.get(name)  # a dataset registered by others sets its metadata when it is loaded
    return list(getattr(MetadataCatalog.get(name), "thing_classes", ()))


_OWN_TILES = (
    "The quick configs take tiles of your own in this layout (datasets/README.md); if you have none, draw some by "
    "d2tiny draw --output $DETECTRON2_DATASETS/synthetic and add dataloader.train.dataset.names=synthetic_train "
    "dataloader.test.dataset.names=synthetic_val."
)


def register_builtin() -> None:
    """Register the benchmarks (see datasets/README.md) under ``$DETECTRON2_DATASETS``."""
    for prefix, jsons in (("aitod", _AITOD_JSONS), ("aitodv2", _AITODV2_JSONS)):
        # v2 has the images of v1, so its json files may lie beside them.
        folders = ("aitod",) if prefix == "aitod" else ("aitodv2", "aitod")
        for split, names in jsons.items():
            parts = {"trainval": ("trainval", "train", "val")}.get(split, (split, "trainval"))
            _register(
                DatasetSource(
                    f"{prefix}_{split}",
                    tuple(f"{folder}/annotations/{n}" for folder in folders for n in names),
                    tuple(
                        [f"{folder}/images/{part}" for folder in folders for part in parts]
                        + [f"{folder}/images" for folder in folders]
                    ),
                    AITOD_CLASSES,
                )
            )
    for name, splits, files, images, classes in _OTHERS:
        for split in splits:
            _register(
                DatasetSource(
                    f"{name}_{split}",
                    tuple(path.format(split) for path in files),
                    tuple(path.format(split) for path in images),
                    classes,
                    **({"advice": _OWN_TILES} if name == "aerial" else {}),
                )
            )
