"""Quick YOLOv5-s on aerial_*."""

from ..common.data import aerial
from ..common.models.yolo import yolov5
from ..common.recipes import quick

dataset = aerial()
model = yolov5("s", dataset.num_classes)
dataloader, optimizer, lr_multiplier, train = quick(dataset)
