"""Quick YOLO11n on aerial_*."""

from ..common.data import aerial
from ..common.models.yolo import yolo11
from ..common.recipes import quick

dataset = aerial()
model = yolo11("n", dataset.num_classes)
dataloader, optimizer, lr_multiplier, train = quick(dataset)
