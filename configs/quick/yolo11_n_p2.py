"""Quick YOLO11n with a level of stride 4 on aerial_*."""

from ..common.yolo import p2
from .yolo11_n import dataloader, lr_multiplier, model, optimizer, train

p2(model)
train.output_dir = "output/quick/yolo11_n_p2"
