"""Datasets, mappers and loaders. Never imports models.

Names are imported when they are first used, because reading COCO json needs neither torch nor Detectron2.
"""

from typing import TYPE_CHECKING

import lazy_loader

if TYPE_CHECKING:
    from d2tiny.data.datasets import register_coco_like
    from d2tiny.data.loading.loader import build_test_loader, build_train_loader, load_datasets
    from d2tiny.data.loading.mapper import TinyDatasetMapper

__getattr__, __dir__, _ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "datasets": ["register_coco_like"],
        "loading.loader": ["build_test_loader", "build_train_loader", "load_datasets"],
        "loading.mapper": ["TinyDatasetMapper"],
    },
)
__all__ = [
    "TinyDatasetMapper",
    "build_test_loader",
    "build_train_loader",
    "load_datasets",
    "register_coco_like",
]
