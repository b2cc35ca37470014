"""YOLOX-m on AI-TOD, 300 epochs."""

from ..common.data import aitod
from ..common.models.yolo import yolox
from ..common.recipes import yolox_sgd

dataset = aitod()
model = yolox("m", dataset.num_classes)
dataloader, optimizer, lr_multiplier, train = yolox_sgd(dataset, epochs=300)
