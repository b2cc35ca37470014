"""YOLO11m on AI-TOD-v2, 600 epochs."""

from ..common.data import aitodv2
from ..common.models.yolo import yolo11
from ..common.recipes import ultralytics_sgd

dataset = aitodv2()
model = yolo11("m", dataset.num_classes)
dataloader, optimizer, lr_multiplier, train = ultralytics_sgd(dataset, epochs=600)
