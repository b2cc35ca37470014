"""Every door through which a user's file comes in: a good file, how it is broken, and the call that reads it."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from d2tiny import model_zoo
from d2tiny.config import load_config
from d2tiny.config.files import configs_root
from d2tiny.data.coco.arrays import ground_truth_from_dict, load_ground_truth
from d2tiny.data.coco.check import check_json
from d2tiny.data.coco.records import load_coco_like
from d2tiny.data.coco.source import DatasetSource
from d2tiny.evaluation import load_detections
from d2tiny.utils.checkpoint_files import read_checkpoint
from d2tiny.utils.published import known_weights
from tests.helpers.mutate import mutated_bytes, mutated_json
from tests.helpers.native import GOOD, LAYOUT, convert, picture, voc_xml
from tests.helpers.published import entry

COCO = {
    "images": [{"id": i, "file_name": f"{i}.png", "width": 100, "height": 80} for i in (1, 2)],
    "categories": [{"id": 1, "name": "car"}, {"id": 2, "name": "ship"}],
    "annotations": [
        {
            "id": 1,
            "image_id": 1,
            "category_id": 1,
            "bbox": [10, 10, 8, 6],
            "area": 48,
            "iscrowd": 0,
            "segmentation": [[]],
        },
        {"id": 2, "image_id": 2, "category_id": 2, "bbox": [50.5, 9, 4, 4], "area": 16.0, "iscrowd": 1, "ignore": 1},
    ],
}
FOUND = [
    {"image_id": 1, "category_id": 1, "bbox": [10, 10, 8, 6], "score": 0.5},
    {"image_id": 2, "category_id": 2, "bbox": [1, 2, 3, 4], "score": 1},
]


@dataclass(frozen=True)
class Door:
    """``file`` in a prepared folder gets broken content; ``read`` takes the folder."""

    file: str
    broken: Callable[..., bytes]
    read: Callable[[Path], object]


def _checkpoint() -> bytes:
    buffer = io.BytesIO()
    torch.save({"model": {"conv.weight": torch.ones(2, 2)}, "iteration": 3}, buffer)
    return buffer.getvalue()


def _json(document):
    text = json.dumps(document).encode()
    return lambda rng: mutated_json(rng, document) if rng.integers(3) else mutated_bytes(rng, text)


def _bytes(content):
    return lambda rng: mutated_bytes(rng, content)


def _native(name):
    _, labels, _, ending = LAYOUT[name]
    good = voc_xml(GOOD[name]) if ending == ".xml" else GOOD[name]
    return Door(f"{name}/{labels}/a{ending}", _bytes(good.encode()), lambda root: convert(name, root / name))


YAML = (configs_root() / "yaml" / "faster_rcnn_r50_efpnbs_rfla_dcloss.yaml").read_bytes()
LAZY = b"model:\n  _target_: torch.nn.Linear\n  in_features: 2\ntrain:\n  output_dir: x\n  max_iter: 3\nlist: [1, 2]\n"
MANIFEST = {"version": 1, "default": "cars", "weights": [entry("cars", b"x"), entry("boats", b"y")]}
TRUTH = ground_truth_from_dict(COCO)
DOORS = {
    "evaluation": Door("coco.json", _json(COCO), lambda root: load_ground_truth(root / "coco.json")),
    "training": Door(
        "coco.json",
        _json(COCO),
        lambda root: load_coco_like(DatasetSource(f"fuzz_{root.name}", (str(root / "coco.json"),), (str(root),))),
    ),
    "check": Door("coco.json", _json(COCO), lambda root: check_json(root / "coco.json", root, progress=False)),
    "coco": Door("coco.json", _json(COCO), lambda root: convert("coco", root / "coco.json", images=root)),
    "detections": Door("found.json", _json(FOUND), lambda root: load_detections(root / "found.json", TRUTH)),
    "yolo names": Door(
        "yolo/data.yaml", _bytes(b"names:\n  0: car\n  1: ship\nnc: 2\n"), lambda root: convert("yolo", root / "yolo")
    ),
    "native yaml": Door(
        "native.yaml", _bytes(YAML), lambda root: model_zoo.get_cfg(root / "native.yaml", device="cpu")
    ),
    "saved config": Door("saved.yaml", _bytes(LAZY), lambda root: load_config(root / "saved.yaml")),
    "checkpoint": Door("model.pth", _bytes(_checkpoint()), lambda root: read_checkpoint(root / "model.pth")),
    "published weights": Door(
        "weights/manifest.json",
        _json(MANIFEST),
        lambda root: [weights.local_file() for weights in known_weights(str(root / "weights"))],
    ),
    **{name: _native(name) for name in ("visdrone", "dota", "voc", "yolo")},
}


def prepare(root: Path) -> None:
    """Write the good files of all doors."""
    for name in ("visdrone", "dota", "voc", "yolo"):
        images, labels, ending, _ = LAYOUT[name]
        picture(root / name / images / f"a{ending}")
        (root / name / labels).mkdir(parents=True, exist_ok=True)
    (root / "weights").mkdir()
    (root / "yolo" / "labels" / "a.txt").write_text(GOOD["yolo"])
    (root / "yolo" / "classes.txt").write_text("car\nship\n")
    for i in (1, 2):
        picture(root / f"{i}.png")
