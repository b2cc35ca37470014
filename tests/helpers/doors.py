"""Every door through which a user's file comes in: a good file, how it is broken, and the call that reads it.

Annotations, labels and checkpoints are here, other doors in ``doors_images.py``, ``doors_configs.py``,
``doors_models.py`` and ``doors_pages.py``.
"""

from __future__ import annotations

import io
from pathlib import Path

import torch

from d2tiny import model_zoo
from d2tiny.config import load_config
from d2tiny.config.files import configs_root
from d2tiny.data.coco.arrays import ground_truth_from_dict, load_ground_truth
from d2tiny.data.coco.check import check_json
from d2tiny.data.coco.records import load_coco_like
from d2tiny.data.coco.source import DatasetSource
from d2tiny.data.tools.converters import Scaling
from d2tiny.evaluation import load_detections
from d2tiny.utils.checkpoint_files import read_checkpoint
from d2tiny.utils.published import known_weights
from tests.helpers import doors_configs, doors_images, doors_models, doors_pages, doors_scenes
from tests.helpers.door import COCO, FOUND, Door, of_bytes, of_json
from tests.helpers.hituav import hituav_json, write_hituav
from tests.helpers.native import GOOD, LAYOUT, convert, picture, voc_xml
from tests.helpers.published import entry


def _checkpoint() -> bytes:
    buffer = io.BytesIO()
    torch.save({"model": {"conv.weight": torch.ones(2, 2)}, "iteration": 3}, buffer)
    return buffer.getvalue()


def _native(name):
    _, labels, _, ending = LAYOUT[name]
    good = voc_xml(GOOD[name]) if ending == ".xml" else GOOD[name]
    return Door(f"{name}/{labels}/a{ending}", of_bytes(good.encode()), lambda root: convert(name, root / name))


# With keys that hold places, which smaller images scale.
PLACES = hituav_json("train")
PLACES["annotation"][0] |= {"keypoints": [110, 5, 2], "rbox": [111, 7, 13, 15, 0.5], "poly": [[105, 0], [118, 15]]}
PLACES["images"][0] |= {"gsd": 0.1, "ignored_regions": [[1, 2, 3, 4]]}


def _voc(content):
    return Door("voc/Annotations/a.xml", of_bytes(content), lambda root: convert("voc", root / "voc"))


GB2312 = '<?xml version="1.0" encoding="gb2312"?>'
# Entities that grow or lead to other files, encodings of several bytes.
XML = {
    "entities": voc_xml(
        GOOD["voc"].replace("ship", "&b;&f;"),
        head='<!DOCTYPE annotation [<!ENTITY a "ship"><!ENTITY b "&a;&a;&a;"><!ENTITY f SYSTEM "a.txt">]>',
    ).encode(),
    "encodings": voc_xml(GOOD["voc"].replace("ship", "\u8239"), head=GB2312).encode("gbk"),
}
YAML = (configs_root() / "yaml" / "faster_rcnn_r50_efpnbs_rfla_dcloss.yaml").read_bytes()
LAZY = b"model:\n  _target_: torch.nn.Linear\n  in_features: 2\ntrain:\n  output_dir: x\n  max_iter: 3\nlist: [1, 2]\n"
MANIFEST = {"version": 1, "default": "cars", "weights": [entry("cars", b"x"), entry("boats", b"y")]}
TRUTH = ground_truth_from_dict(COCO)
DOORS = {
    "evaluation": Door("coco.json", of_json(COCO), lambda root: load_ground_truth(root / "coco.json")),
    "training": Door(
        "coco.json",
        of_json(COCO),
        lambda root: load_coco_like(DatasetSource(f"fuzz_{root.name}", (str(root / "coco.json"),), (str(root),))),
    ),
    "check": Door("coco.json", of_json(COCO), lambda root: check_json(root / "coco.json", root, progress=False)),
    "coco": Door("coco.json", of_json(COCO), lambda root: convert("coco", root / "coco.json", images=root)),
    "hituav": Door(
        "hituav/annotations/train.json",
        of_json(PLACES),
        lambda root: convert("hituav", root / "hituav", split="train", scaling=Scaling(0.5, root, "small", jobs=1)),
        writes="small",
    ),
    "detections": Door("found.json", of_json(FOUND), lambda root: load_detections(root / "found.json", TRUTH)),
    "yolo names": Door(
        "yolo/data.yaml", of_bytes(b"names:\n  0: car\n  1: ship\nnc: 2\n"), lambda root: convert("yolo", root / "yolo")
    ),
    "native yaml": Door(
        "native.yaml", of_bytes(YAML), lambda root: model_zoo.get_cfg(root / "native.yaml", device="cpu")
    ),
    "saved config": Door("saved.yaml", of_bytes(LAZY), lambda root: load_config(root / "saved.yaml")),
    "checkpoint": Door("model.pth", of_bytes(_checkpoint()), lambda root: read_checkpoint(root / "model.pth")),
    "published weights": Door(
        "weights/manifest.json",
        of_json(MANIFEST),
        lambda root: [weights.local_file() for weights in known_weights(str(root / "weights"))],
    ),
    **{name: _native(name) for name in ("visdrone", "dota", "voc", "yolo")},
    **{f"voc {name}": _voc(content) for name, content in XML.items()},
    **doors_configs.DOORS,
    **doors_images.DOORS,
    **doors_models.DOORS,
    **doors_pages.DOORS,
    **doors_scenes.DOORS,
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
    write_hituav(root / "hituav")
    for i in (1, 2):
        picture(root / f"{i}.png")
    doors_configs.prepare(root)
    doors_images.prepare(root)
