"""YOLOX-m with the SARL relay on AI-TOD."""

from ..common.data import aitod
from ..common.models.yolo import yolox
from ..common.parts.yolo import sarl
from ..common.recipes import yolox_sgd

dataset = aitod()
model = sarl(yolox("m", dataset.num_classes))
dataloader, optimizer, lr_multiplier, train = yolox_sgd(dataset, epochs=300)
