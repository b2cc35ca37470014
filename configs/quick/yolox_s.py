"""Quick YOLOX-s on aerial_*."""

from ..common.data import aerial
from ..common.models.yolo import yolox
from ..common.recipes import quick

dataset = aerial()
model = yolox("s", dataset.num_classes, max_detections=1500)
dataloader, optimizer, lr_multiplier, train = quick(dataset)
