"""Quick YOLO11n with MDCA on aerial_*."""

from ..common.data import aerial
from ..common.models.yolo import yolo11
from ..common.parts.yolo import mdca
from ..common.recipes import quick

dataset = aerial()
model = mdca(yolo11("n", dataset.num_classes))
dataloader, optimizer, lr_multiplier, train = quick(dataset)
