"""Datasets: registration and a loader for COCO-style json."""

from d2tiny.data.coco.records import load_coco_like, read_coco_json
from d2tiny.data.coco.source import DatasetSource, datasets_root
from d2tiny.data.datasets.categories import AITOD_CLASSES, DIOR_CLASSES, DOTA_V2_CLASSES, VISDRONE_CLASSES
from d2tiny.data.datasets.register import find_source, register_builtin, register_coco_like

__all__ = [
    "AITOD_CLASSES",
    "DIOR_CLASSES",
    "DOTA_V2_CLASSES",
    "VISDRONE_CLASSES",
    "DatasetSource",
    "datasets_root",
    "find_source",
    "load_coco_like",
    "read_coco_json",
    "register_builtin",
    "register_coco_like",
]
