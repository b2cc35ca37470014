"""Synthetic datasets on disk in COCO format, with the folder layout of AI-TOD or a flat one."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any, Literal

import cv2

from d2tiny.data.coco.boxes import box_xyxy_to_xywh
from d2tiny.data.coco.writer import write_coco
from d2tiny.data.datasets.categories import AITOD_CLASSES
from d2tiny.synthetic.scene import Scene, check_scene, render_scene
from d2tiny.utils.errors import ConfigError, DatasetError
from d2tiny.utils.files import write_text

Layout = Literal["flat", "aitod"]

_RENDERER_VERSION = 1  # increase when a seed renders another image, so that existing folders are rendered again
_STAMP = ".d2tiny_synthetic.json"
_SEEDS_PER_SPLIT = 1_000_000
_PATHS: dict[str, tuple[str, str]] = {
    "flat": ("instances_{split}.json", "{split}"),
    "aitod": ("annotations/aitod_{split}_v1.json", "images/{split}"),
}


def write_dataset(
    root: Path,
    *,
    train: int,
    val: int,
    height: int = 256,
    width: int = 256,
    density: float = 1.0,
    seed: int = 0,
    layout: Layout = "flat",
    progress: bool = False,
) -> dict[str, Path]:
    """Write scenes as PNG images with annotations in COCO format, unless they exist already.

    Category ids are 1 to 8 in the order of `AITOD_CLASSES`; annotation ids start at 0, as in the files of AI-TOD. A
    stamp file records the arguments: a folder that is complete for the same arguments is not modified, one that was
    written with other arguments is rendered again.

    Args:
        root: output folder; it is created if it does not exist.
        train: number of training images.
        val: number of validation images.
        height: height of the images in px.
        width: width of the images in px.
        density: density of objects, see :func:`render_scene`.
        seed: seed of the dataset; datasets of different seeds have no scene in common.
        layout: ``flat`` writes `instances_{split}.json` and `{split}/*.png`; ``aitod`` writes
            `annotations/aitod_{split}_v1.json` and `images/{split}/*.png`.
        progress: report progress on stderr.

    Returns:
        The paths under the keys ``train_json``, ``train_images``, ``val_json`` and ``val_images``.

    Raises:
        ConfigError: unknown layout, or a count or another argument is outside its range.
        DatasetError: annotation files exist that were not written by this function.
    """
    counts = {"train": train, "val": val}
    _check_counts(counts, layout)
    check_scene(seed, height, width, density)
    root = Path(root)
    paths = _dataset_paths(root, layout)
    arguments = {
        "renderer": _RENDERER_VERSION, "train": train, "val": val, "height": height, "width": width,
        "density": density, "seed": seed, "layout": layout,
    }  # fmt: skip
    stamp = root / _STAMP
    if _is_complete(stamp, arguments, paths, counts):
        return paths
    _mark_unfinished(root, stamp, paths)
    for index, (split, count) in enumerate(counts.items()):
        first = (2 * seed + index) * _SEEDS_PER_SPLIT
        scenes = _Split(paths[f"{split}_images"], height, width)
        for k in range(count):
            scenes.add(render_scene(first + k, height=height, width=width, density=density))
            if progress and ((k + 1) % 50 == 0 or k + 1 == count):
                print(f"{split}: {k + 1}/{count} synthetic scenes in {root}", file=sys.stderr)
        write_coco(scenes.as_coco(), paths[f"{split}_json"])
    write_text(stamp, json.dumps(arguments))
    return paths


def _check_counts(counts: dict[str, int], layout: str) -> None:
    if layout not in _PATHS:
        raise ConfigError(f"write_dataset: layout={layout!r}, allowed are {sorted(_PATHS)}.")
    for split, count in counts.items():
        if not 0 <= count <= _SEEDS_PER_SPLIT:
            raise ConfigError(f"{split}={count} drawn scenes: allowed is 0 to {_SEEDS_PER_SPLIT}.")


def _dataset_paths(root: Path, layout: Layout) -> dict[str, Path]:
    paths: dict[str, Path] = {}
    for split in ("train", "val"):
        annotations, images = (root / part.format(split=split) for part in _PATHS[layout])
        paths |= {f"{split}_json": annotations, f"{split}_images": images}
    return paths


class _Split:
    """The images and annotations of one split, written to a folder."""

    def __init__(self, folder: Path, height: int, width: int) -> None:
        self.folder, self.height, self.width = folder, height, width
        self.images: list[dict[str, Any]] = []
        self.annotations: list[dict[str, Any]] = []
        folder.mkdir(parents=True, exist_ok=True)
        for stale in folder.glob("synthetic_*.png"):
            stale.unlink()

    def add(self, scene: Scene) -> None:
        """Write the image of a scene and record its annotations."""
        image_id = len(self.images)
        name = f"synthetic_{image_id:06d}.png"
        if not cv2.imwrite(str(self.folder / name), scene.image[..., ::-1]):
            raise OSError(f"write_dataset: cannot write {self.folder / name}.")
        self.images.append({"id": image_id, "file_name": name, "height": self.height, "width": self.width})
        for box, category in zip(scene.boxes.tolist(), scene.classes.tolist(), strict=True):
            x, y, w, h = box_xyxy_to_xywh(box)
            self.annotations.append(
                {
                    "id": len(self.annotations),
                    "image_id": image_id,
                    "category_id": category + 1,
                    "bbox": [x, y, w, h],
                    "area": w * h,
                    "iscrowd": 0,
                    "ignore": 0,
                }
            )

    def as_coco(self) -> dict[str, Any]:
        """Return the content of the annotation file."""
        return {
            "info": {"description": "synthetic aerial scenes by d2tiny"},
            "images": self.images,
            "annotations": self.annotations,
            "categories": [
                {"id": k, "name": name, "supercategory": name} for k, name in enumerate(AITOD_CLASSES, start=1)
            ],
        }


def _is_complete(stamp: Path, arguments: dict[str, Any], paths: dict[str, Path], counts: dict[str, int]) -> bool:
    """Return whether the folder contains all images and annotations for these arguments."""
    if not stamp.is_file() or json.loads(stamp.read_text()) != arguments:
        return False
    return all(
        paths[f"{split}_json"].is_file() and len(list(paths[f"{split}_images"].glob("synthetic_*.png"))) == count
        for split, count in counts.items()
    )


def _mark_unfinished(root: Path, stamp: Path, paths: dict[str, Path]) -> None:
    """Write a stamp of an unfinished dataset, unless that would overwrite annotations of another origin."""
    has_stamp = stamp.is_file()
    foreign = [p for key, p in paths.items() if key.endswith("_json") and p.exists()]
    if foreign and not has_stamp:
        raise DatasetError(
            f"{foreign[0]} exists and was not drawn by d2tiny (no {_STAMP} in {root}). "
            "Choose another folder, or remove the file first."
        )
    root.mkdir(parents=True, exist_ok=True)
    write_text(stamp, json.dumps({"unfinished": True}))
