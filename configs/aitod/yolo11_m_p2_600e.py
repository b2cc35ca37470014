"""YOLO11m with a level of stride 4 on AI-TOD."""

from ..common.data import aitod
from ..common.models.yolo import yolo11
from ..common.parts.yolo import p2
from ..common.recipes import ultralytics_sgd

dataset = aitod()
model = p2(yolo11("m", dataset.num_classes))
dataloader, optimizer, lr_multiplier, train = ultralytics_sgd(dataset, epochs=600)
