"""YOLOX-m on AI-TOD-v2, 300 epochs."""

from ..common.data import aitodv2
from ..common.models.yolo import yolox
from ..common.recipes import yolox_sgd

dataset = aitodv2()
model = yolox("m", dataset.num_classes)
dataloader, optimizer, lr_multiplier, train = yolox_sgd(dataset, epochs=300)
