"""Quick YOLO11n with PFDH on aerial_*."""

from ..common.yolo import pfdh
from .yolo11_n import dataloader, lr_multiplier, model, optimizer, train

pfdh(model)
train.output_dir = "output/quick/yolo11_n_pfdh"
