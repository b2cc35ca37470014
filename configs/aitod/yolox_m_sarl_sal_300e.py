"""YOLOX-m with relay and scale-adaptive loss on AI-TOD."""

from ..common.data import aitod
from ..common.models.yolo import yolox
from ..common.parts.yolo import sal, sarl
from ..common.recipes import yolox_sgd

dataset = aitod()
model = sal(sarl(yolox("m", dataset.num_classes)))
dataloader, optimizer, lr_multiplier, train = yolox_sgd(dataset, epochs=300)
