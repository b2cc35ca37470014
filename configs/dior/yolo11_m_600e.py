"""YOLO11m on DIOR."""

from ..common.data import dior
from ..common.models.yolo import yolo11
from ..common.recipes import ultralytics_sgd

dataset = dior()
model = yolo11("m", dataset.num_classes)
dataloader, optimizer, lr_multiplier, train = ultralytics_sgd(dataset, epochs=600)
