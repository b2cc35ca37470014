"""A small dataset as HIT-UAV is published: odd COCO keys, ids from 0, grey JPEGs."""

from __future__ import annotations

import json

import numpy as np
from PIL import Image

CLASSES = ("Person", "Car", "Bicycle", "OtherVehicle", "DontCare")
SIZE = (160, 128)
# Of each split: image name → class numbers and boxes.
LABELS = {
    "train": {
        "1_60_80_0_00663.jpg": [(0, [105, 0, 13, 15]), (3, [20, 30, 31, 40])],
        "0_90_30_0_00001.jpg": [(4, [40, 8, 12, 10]), (1, [10, 11, 23, 12]), (2, [60, 50, 7, 9])],
    },
    "val": {"1_60_80_0_00664.jpg": [(0, [2, 3, 5, 7])]},
}


def hituav_json(split):
    """Return the json of a split; the numbers of its images go on where the split before ends."""
    first = 0 if split == "train" else len(LABELS["train"])
    entries, annotations = [], []
    for number, (name, objects) in enumerate(LABELS[split].items(), start=first):
        size = {"height": SIZE[1], "width": SIZE[0]}
        entries.append({"filename": name, **size, "id": number, "date_captured": "20201217"})
        annotations += [_annotation(len(annotations) + i, number, *o) for i, o in enumerate(objects)]
    return {
        "info": {"description": "PegasusDrone"},
        "licenses": [{"url": "xxxx"}],
        "images": entries,
        "categories": [{"supercategory": "Vehicle", "id": i, "name": name} for i, name in enumerate(CLASSES)],
        "annotation": annotations,
    }


def write_hituav(root):
    """Write ``annotations/{train,val}.json`` and the images; return ``root``."""
    for split, images in LABELS.items():
        for name in images:
            write_thermal(root / split / name, len(name))
        (root / "annotations").mkdir(exist_ok=True)
        (root / "annotations" / f"{split}.json").write_text(json.dumps(hituav_json(split)))
    return root


def write_thermal(path, seed):
    """Write a grey picture."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(60, 120, SIZE[::-1], np.uint8)
    Image.fromarray(pixels).save(path)


def _annotation(number, image, category, box):
    x, y, w, h = box
    outline = [x, y, x + w, y, x + w, y + h, x, y + h]
    return {
        "segmentation": [outline],
        "area": w * h,
        "image_id": image,
        "bbox": box,
        "category_id": category,
        "id": number,
    }
