"""Quick YOLOX-s with relay and scale-adaptive loss on aerial_*."""

from ..common.data import aerial
from ..common.models.yolo import yolox
from ..common.parts.yolo import sal, sarl
from ..common.recipes import quick

dataset = aerial()
model = sal(sarl(yolox("s", dataset.num_classes, max_detections=1500)))
dataloader, optimizer, lr_multiplier, train = quick(dataset)
