"""Quick DINO on aerial_*: ResNet-18, four scales from stride 4, 300 queries."""

from ..common.dino import quick
from ..common.models.dino import model
from .faster_rcnn_r18_fpn_maxiou import dataloader, lr_multiplier, optimizer, train

quick(model)
train.max_iter = 450
train.clip_norm = 0.1
train.output_dir = "output/quick/dino_r18"
