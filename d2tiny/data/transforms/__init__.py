"""Augmentations, as Detectron2 augmentations."""

from d2tiny.data.transforms.crop import ObjectCrop

__all__ = ["ObjectCrop"]
