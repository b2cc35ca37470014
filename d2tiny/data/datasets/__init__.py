"""Datasets under registered names, and their classes."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from d2tiny.data.coco.document import read_coco_json
from d2tiny.data.coco.source import DatasetSource, datasets_root
from d2tiny.data.datasets.categories import (
    AITOD_CLASSES,
    COLOUR_CLASSES,
    DIOR_CLASSES,
    DOTA_V2_CLASSES,
    HITUAV_CLASSES,
    VISDRONE_CLASSES,
)

if TYPE_CHECKING:
    from d2tiny.data.coco.records import load_coco_like
    from d2tiny.data.datasets.register import class_names, find_source, register_builtin, register_coco_like

__all__ = [
    "AITOD_CLASSES",
    "COLOUR_CLASSES",
    "DIOR_CLASSES",
    "DOTA_V2_CLASSES",
    "HITUAV_CLASSES",
    "VISDRONE_CLASSES",
    "DatasetSource",
    "class_names",
    "datasets_root",
    "find_source",
    "load_coco_like",
    "read_coco_json",
    "register_builtin",
    "register_coco_like",
]

# Detectron2 is imported only when one of these is used, so that converters start quickly.
_LAZY = {
    "class_names": "d2tiny.data.datasets.register",
    "find_source": "d2tiny.data.datasets.register",
    "load_coco_like": "d2tiny.data.coco.records",
    "register_builtin": "d2tiny.data.datasets.register",
    "register_coco_like": "d2tiny.data.datasets.register",
}


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_LAZY[name]), name)
