"""YOLOX-m on DOTA-v2.0 tiles, 300 epochs."""

from ..common.data import dotav2
from ..common.models.yolo import yolox
from ..common.recipes import yolox_sgd

dataset = dotav2()
model = yolox("m", dataset.num_classes)
dataloader, optimizer, lr_multiplier, train = yolox_sgd(dataset, epochs=300)
