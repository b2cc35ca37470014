"""YOLOX-m with the scale-adaptive loss on AI-TOD."""

from ..common.data import aitod
from ..common.models.yolo import yolox
from ..common.parts.yolo import sal
from ..common.recipes import yolox_sgd

dataset = aitod()
model = sal(yolox("m", dataset.num_classes))
dataloader, optimizer, lr_multiplier, train = yolox_sgd(dataset, epochs=300)
