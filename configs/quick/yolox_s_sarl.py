"""Quick YOLOX-s with the SARL relay on aerial_*."""

from ..common.data import aerial
from ..common.models.yolo import yolox
from ..common.parts.yolo import sarl
from ..common.recipes import quick

dataset = aerial()
model = sarl(yolox("s", dataset.num_classes, max_detections=1500))
dataloader, optimizer, lr_multiplier, train = quick(dataset)
