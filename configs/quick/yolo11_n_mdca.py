"""Quick YOLO11n with MDCA on aerial_*."""

from ..common.yolo import mdca
from .yolo11_n import dataloader, lr_multiplier, model, optimizer, train

mdca(model)
train.output_dir = "output/quick/yolo11_n_mdca"
