"""Quick YOLO11n with ARB on aerial_*."""

from ..common.yolo import arb
from .yolo11_n import dataloader, lr_multiplier, model, optimizer, train

arb(model)
train.output_dir = "output/quick/yolo11_n_arb"
