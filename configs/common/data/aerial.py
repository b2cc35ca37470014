"""Small aerial tiles (the layout of datasets/README.md, "aerial"): small crops round objects, every orientation."""

from detectron2.config import LazyCall as L
from detectron2.data import transforms as T

from d2tiny.data.transforms import ObjectCrop

from .aitod import dataloader

dataloader.train.dataset.names = "aerial_train"
# Many small crops see more objects and backgrounds for the same arithmetic than few large ones.
dataloader.train.mapper.augmentations = [
    L(ObjectCrop)(size=(160, 160), object_prob=0.8),
    L(T.RandomFlip)(prob=0.5, horizontal=True),
    L(T.RandomFlip)(prob=0.5, horizontal=False, vertical=True),
    L(T.RandomBrightness)(intensity_min=0.7, intensity_max=1.3),
    L(T.RandomContrast)(intensity_min=0.7, intensity_max=1.3),
]
dataloader.train.total_batch_size = 8
dataloader.train.num_workers = 0
dataloader.test.dataset.names = "aerial_val"
dataloader.test.num_workers = 0
