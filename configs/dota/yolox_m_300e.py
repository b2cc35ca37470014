"""YOLOX-m on DOTA-v2.0 tiles, 300 epochs."""

from ..common.data.dotav2 import dataloader
from ..common.models.yolox import model
from ..common.optim import yolo_sgd as optimizer
from ..common.recipes import yolox
from ..common.train import train
from ..common.yolo import yolo_size

yolo_size(model, "m")
model.head.num_classes = 18
# The number of tiles depends on how they are cut; 10,000 are taken for an epoch.
lr_multiplier = yolox(dataloader, train, optimizer, images=10000, epochs=300)
train.output_dir = "output/dota/yolox_m_300e"
