"""Quick YOLOv5-s with relay and scale-adaptive loss on aerial_*."""

from ..common.data import aerial
from ..common.models.yolo import yolov5
from ..common.parts.yolo import sal, sarl
from ..common.recipes import quick

dataset = aerial()
model = sal(sarl(yolov5("s", dataset.num_classes)))
dataloader, optimizer, lr_multiplier, train = quick(dataset)
