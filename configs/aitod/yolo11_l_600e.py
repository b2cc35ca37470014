"""YOLO11l on AI-TOD, 600 epochs."""

from ..common.data.aitod import dataloader
from ..common.models.yolo11 import model
from ..common.optim import yolo_sgd as optimizer
from ..common.recipes import ultralytics
from ..common.train import train
from ..common.yolo import yolo_size

yolo_size(model, "l")
lr_multiplier = ultralytics(dataloader, train, optimizer, images=14018, epochs=600)
train.output_dir = "output/aitod/yolo11_l_600e"
