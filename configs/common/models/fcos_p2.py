"""FCOS on P2-P6: for the smallest objects."""

from detectron2.config import LazyCall as L
from detectron2.modeling.backbone.fpn import LastLevelMaxPool

from .fcos import model

model.backbone.bottom_up.out_features = ["res2", "res3", "res4", "res5"]
model.backbone.top_block = L(LastLevelMaxPool)()
model.in_features = ["p2", "p3", "p4", "p5", "p6"]
model.head.anchor_generator.sizes = [[4], [8], [16], [32], [64]]
model.head.anchor_generator.strides = [4, 8, 16, 32, 64]
