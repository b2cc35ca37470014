"""YOLOX-m on AI-TOD-v2, 300 epochs."""

from ..common.data.aitodv2 import dataloader
from ..common.models.yolox import model
from ..common.optim import yolo_sgd as optimizer
from ..common.recipes import yolox
from ..common.train import train
from ..common.yolo import yolo_size

yolo_size(model, "m")
lr_multiplier = yolox(dataloader, train, optimizer, images=14018, epochs=300)
train.output_dir = "output/aitodv2/yolox_m_300e"
