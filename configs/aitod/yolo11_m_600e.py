"""YOLO11m on AI-TOD, 600 epochs."""

from ..common.data import aitod
from ..common.models.yolo import yolo11
from ..common.recipes import ultralytics_sgd

dataset = aitod()
model = yolo11("m", dataset.num_classes)
dataloader, optimizer, lr_multiplier, train = ultralytics_sgd(dataset, epochs=600)
