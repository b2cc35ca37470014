"""YOLOX-m with relay and scale-adaptive loss on DOTA-v2.0 tiles."""

from ..common.data import dotav2
from ..common.models.yolo import yolox
from ..common.parts.yolo import sal, sarl
from ..common.recipes import yolox_sgd

dataset = dotav2()
model = sal(sarl(yolox("m", dataset.num_classes)))
dataloader, optimizer, lr_multiplier, train = yolox_sgd(dataset, epochs=300)
