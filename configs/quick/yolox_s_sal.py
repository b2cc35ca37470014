"""Quick YOLOX-s with the scale-adaptive loss on aerial_*."""

from ..common.data import aerial
from ..common.models.yolo import yolox
from ..common.parts.yolo import sal
from ..common.recipes import quick

dataset = aerial()
model = sal(yolox("s", dataset.num_classes, max_detections=1500))
dataloader, optimizer, lr_multiplier, train = quick(dataset)
