"""YOLOX-m with relay and scale-adaptive loss on AI-TOD-v2."""

from ..common.data import aitodv2
from ..common.models.yolo import yolox
from ..common.parts.yolo import sal, sarl
from ..common.recipes import yolox_sgd

dataset = aitodv2()
model = sal(sarl(yolox("m", dataset.num_classes)))
dataloader, optimizer, lr_multiplier, train = yolox_sgd(dataset, epochs=300)
