"""YOLOX-m on VisDrone-DET, 300 epochs."""

from ..common.data import visdrone
from ..common.models.yolo import yolox
from ..common.recipes import yolox_sgd

dataset = visdrone()
model = yolox("m", dataset.num_classes)
dataloader, optimizer, lr_multiplier, train = yolox_sgd(dataset, epochs=300)
