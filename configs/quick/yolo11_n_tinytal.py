"""Quick YOLO11n with candidates for the tiniest objects on aerial_*."""

from ..common.yolo import tiny_candidates
from .yolo11_n import dataloader, lr_multiplier, model, optimizer, train

tiny_candidates(model)
train.output_dir = "output/quick/yolo11_n_tinytal"
