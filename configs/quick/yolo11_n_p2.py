"""Quick YOLO11n with a level of stride 4 on aerial_*."""

from ..common.data import aerial
from ..common.models.yolo import yolo11
from ..common.parts.yolo import p2
from ..common.recipes import quick

dataset = aerial()
model = p2(yolo11("n", dataset.num_classes))
dataloader, optimizer, lr_multiplier, train = quick(dataset)
