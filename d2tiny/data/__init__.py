"""Datasets, mappers, loaders, synthetic scenes. Never imports models."""

from d2tiny.data.datasets import register_coco_like
from d2tiny.data.loading.loader import build_test_loader, build_train_loader, load_datasets
from d2tiny.data.loading.mapper import TinyDatasetMapper

__all__ = [
    "TinyDatasetMapper",
    "build_test_loader",
    "build_train_loader",
    "load_datasets",
    "register_coco_like",
]
