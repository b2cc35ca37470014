"""Synthetic scenes on disk, in the form of a small COCO or AI-TOD data set."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any, Literal

import cv2

from d2tiny.data.coco.boxes import box_xyxy_to_xywh
from d2tiny.data.coco.writer import write_coco
from d2tiny.data.datasets.categories import AITOD_CLASSES
from d2tiny.synthetic.scene import Scene, render_scene
from d2tiny.utils.files import write_text

Layout = Literal["flat", "aitod"]

_RENDERER = 1  # raise when the same seed draws something else, so that old folders are redrawn
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
    """Writes scenes as PNG with COCO-style annotations, unless they are there already.

    Categories are numbered 1..8 in the order of `AITOD_CLASSES`; annotation ids start at 0, as in
    the AI-TOD files. A stamp file marks a folder as written by this function; a folder complete
    for the same arguments is left as it is, one written with other arguments is redrawn.

    Args:
        root: folder, created if needed.
        train: number of training images.
        val: number of validation images.
        height: rows of every image.
        width: columns of every image.
        density: see `render_scene`.
        seed: data sets of different seeds share no scene.
        layout: "flat" gives `instances_{split}.json` and `{split}/*.png`; "aitod" gives
            `annotations/aitod_{split}_v1.json` and `images/{split}/*.png`.
        progress: report on stderr.

    Returns:
        Paths under "train_json", "train_images", "val_json" and "val_images".

    Raises:
        ValueError: unknown layout, or a count or seed out of range.
        FileExistsError: the annotation files exist and were not written by this function.
    """
    if layout not in _PATHS:
        raise ValueError(f"write_dataset: layout={layout!r}, allowed are {sorted(_PATHS)}.")
    counts = {"train": train, "val": val}
    for split, count in counts.items():
        if not 0 <= count <= _SEEDS_PER_SPLIT:
            raise ValueError(f"write_dataset: {split}={count}, allowed is 0 to {_SEEDS_PER_SPLIT}.")
    if seed < 0:
        raise ValueError(f"write_dataset: seed={seed}, allowed are integers >= 0.")
    root = Path(root)
    paths: dict[str, Path] = {}
    for split in counts:
        annotations, images = (root / part.format(split=split) for part in _PATHS[layout])
        paths |= {f"{split}_json": annotations, f"{split}_images": images}
    arguments = {
        "renderer": _RENDERER, "train": train, "val": val, "height": height, "width": width,
        "density": density, "seed": seed, "layout": layout,
    }  # fmt: skip
    stamp = root / _STAMP
    if _is_complete(stamp, arguments, paths, counts):
        return paths
    _claim(root, stamp, paths)
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


class _Split:
    """The images and annotations of one split."""

    def __init__(self, folder: Path, height: int, width: int) -> None:
        self.folder, self.height, self.width = folder, height, width
        self.images: list[dict[str, Any]] = []
        self.annotations: list[dict[str, Any]] = []
        folder.mkdir(parents=True, exist_ok=True)
        for stale in folder.glob("synthetic_*.png"):
            stale.unlink()

    def add(self, scene: Scene) -> None:
        """Writes one picture and takes down its objects."""
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
        """The content of the annotation file."""
        # Ids follow the scene order; numbering restarts per split as in the real files.
        return {
            "info": {"description": "synthetic aerial scenes by d2tiny"},
            "images": self.images,
            "annotations": self.annotations,
            "categories": [
                {"id": k, "name": name, "supercategory": name} for k, name in enumerate(AITOD_CLASSES, start=1)
            ],
        }


def _is_complete(stamp: Path, arguments: dict[str, Any], paths: dict[str, Path], counts: dict[str, int]) -> bool:
    """True if the folder holds exactly what these arguments would write."""
    if not stamp.is_file() or json.loads(stamp.read_text()) != arguments:
        return False
    return all(
        paths[f"{split}_json"].is_file() and len(list(paths[f"{split}_images"].glob("synthetic_*.png"))) == count
        for split, count in counts.items()
    )


def _claim(root: Path, stamp: Path, paths: dict[str, Path]) -> None:
    """Marks the folder as ours and unfinished; refuses to overwrite somebody else's annotations."""
    ours = stamp.is_file()
    foreign = [p for key, p in paths.items() if key.endswith("_json") and p.exists()]
    if foreign and not ours:
        raise FileExistsError(
            f"write_dataset: {foreign[0]} exists and was not written by d2tiny "
            f"(no {_STAMP} in {root}). Choose another folder, or remove the file first."
        )
    root.mkdir(parents=True, exist_ok=True)
    write_text(stamp, json.dumps({"unfinished": True}))
