"""Augmentations for tiny objects, as Detectron2 augmentations."""

from d2tiny.data.transforms.affine import AffineTransform, RandomAffine
from d2tiny.data.transforms.copy_paste import BoxCopyPaste
from d2tiny.data.transforms.crop import ObjectCrop
from d2tiny.data.transforms.photometric import Photometric
from d2tiny.data.transforms.rotate import QuarterTurn, RandomQuarterTurn
from d2tiny.data.transforms.scale import GuardedScale, ResizeByFactor

__all__ = [
    "AffineTransform",
    "BoxCopyPaste",
    "GuardedScale",
    "ObjectCrop",
    "Photometric",
    "QuarterTurn",
    "RandomAffine",
    "RandomQuarterTurn",
    "ResizeByFactor",
]
