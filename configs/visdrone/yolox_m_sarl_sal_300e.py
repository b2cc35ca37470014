"""YOLOX-m with relay and scale-adaptive loss on VisDrone-DET."""

from ..common.data import visdrone
from ..common.models.yolo import yolox
from ..common.parts.yolo import sal, sarl
from ..common.recipes import yolox_sgd

dataset = visdrone()
model = sal(sarl(yolox("m", dataset.num_classes)))
dataloader, optimizer, lr_multiplier, train = yolox_sgd(dataset, epochs=300)
