"""Quick YOLOX-s with the scale-adaptive loss on aerial_*."""

from ..common.yolo import yolo_sal
from .yolox_s import dataloader, lr_multiplier, model, optimizer, train

yolo_sal(model)
train.output_dir = "output/quick/yolox_s_sal"
