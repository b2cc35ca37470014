"""Quick YOLOX-s with the SARL relay on aerial_*."""

from ..common.yolo import yolo_sarl
from .yolox_s import dataloader, lr_multiplier, model, optimizer, train

yolo_sarl(model)
train.output_dir = "output/quick/yolox_s_sarl"
