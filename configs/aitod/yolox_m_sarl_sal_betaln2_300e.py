"""YOLOX-m with relay and scale-adaptive loss, β = 1/ln 2 (table VII)."""

import math

from ..common.data import aitod
from ..common.models.yolo import yolox
from ..common.parts.yolo import sal, sarl
from ..common.recipes import yolox_sgd

dataset = aitod()
model = sal(sarl(yolox("m", dataset.num_classes)), beta=1 / math.log(2))
dataloader, optimizer, lr_multiplier, train = yolox_sgd(dataset, epochs=300)
