"""VisDrone-DET with its own protocol; `dataloader.evaluator.protocol=aitod` for the tables of tiny-object papers."""

from detectron2.config import LazyCall as L
from detectron2.data import transforms as T

from d2tiny.data.transforms import ObjectCrop

from .aitod import dataloader

dataloader.train.dataset.names = "visdrone_train"
dataloader.test.dataset.names = "visdrone_val"
dataloader.evaluator.protocol = "visdrone"
# Images have up to 2000×1500 px; crops keep the native size of the objects, and what they cut is ignored.
dataloader.train.mapper.augmentations = [
    L(ObjectCrop)(size=(1024, 1024), object_prob=0.9),
    L(T.RandomFlip)(prob=0.5, horizontal=True),
]
