"""What the pages for newcomers name: pictures, an orthophoto, labels in several formats; drawn, and small."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import cv2
import numpy as np

from d2tiny.data.datasets import AITOD_CLASSES
from d2tiny.synthetic import render_scene
from tests.helpers.made_rasters import geotiff

XML = "<annotation><filename>{name}</filename><size><width>{w}</width><height>{h}</height></size>{objects}</annotation>"
OBJECT = (
    "<object><name>{name}</name><bndbox><xmin>{x1}</xmin><ymin>{y1}</ymin><xmax>{x2}</xmax><ymax>{y2}</ymax></bndbox>"
    "</object>"
)


def write_world(root: Path, scenes: Path) -> Path:
    """Write the world into a folder.

    ``picture.jpg``, ``scene.png``, ``ortho.tif``; ``yolo/``, ``voc/``, ``scenes/`` with ``scenes.json``.

    Args:
        root: the folder.
        scenes: a dataset of drawn scenes in the flat layout, with AI-TOD's classes from 1 on.
    """
    image = render_scene(5, height=200, width=240).image
    for name in ("picture.jpg", "scene.png"):
        cv2.imwrite(str(root / name), image[:, :, ::-1])
    geotiff(root / "ortho.tif", np.ascontiguousarray(image.transpose(2, 0, 1)))
    for split in ("train", "val"):
        _write_yolo(root / "yolo", scenes, split)
    (root / "yolo" / "classes.txt").write_text("\n".join(AITOD_CLASSES))
    _write_voc(root / "voc", scenes)
    shutil.copytree(scenes / "val", root / "scenes")
    shutil.copyfile(scenes / "instances_val.json", root / "scenes.json")
    return root


def _read(scenes: Path, split: str) -> list[tuple[dict, list[dict]]]:
    coco = json.loads((scenes / f"instances_{split}.json").read_text())
    return [(image, [a for a in coco["annotations"] if a["image_id"] == image["id"]]) for image in coco["images"]]


def _write_yolo(root: Path, scenes: Path, split: str) -> None:
    shutil.copytree(scenes / split, root / "images" / split)
    (root / "labels" / split).mkdir(parents=True)
    for image, objects in _read(scenes, split):
        w, h = image["width"], image["height"]
        boxes = [(a["category_id"] - 1, a["bbox"]) for a in objects]
        lines = [
            f"{c} {(x + bw / 2) / w:.6f} {(y + bh / 2) / h:.6f} {bw / w:.6f} {bh / h:.6f}"
            for c, (x, y, bw, bh) in boxes
        ]
        (root / "labels" / split / f"{Path(image['file_name']).stem}.txt").write_text("\n".join(lines))


def _write_voc(root: Path, scenes: Path) -> None:
    shutil.copytree(scenes / "train", root / "JPEGImages")
    for folder in ("Annotations", "ImageSets/Main"):
        (root / folder).mkdir(parents=True)
    stems = []
    for image, entries in _read(scenes, "train"):
        objects = ""
        for a in entries:
            x, y, w, h = a["bbox"]
            objects += OBJECT.format(name=AITOD_CLASSES[a["category_id"] - 1], x1=x, y1=y, x2=x + w, y2=y + h)
        stems.append(Path(image["file_name"]).stem)
        text = XML.format(name=image["file_name"], w=image["width"], h=image["height"], objects=objects)
        (root / "Annotations" / f"{stems[-1]}.xml").write_text(text)
    (root / "ImageSets" / "Main" / "train.txt").write_text("\n".join(stems))
