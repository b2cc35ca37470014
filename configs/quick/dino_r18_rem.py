"""Quick DINO with routed mixture attention on aerial_*."""

from ..common.dino import rem
from .dino_r18 import dataloader, lr_multiplier, model, optimizer, train

rem(model)
train.output_dir = "output/quick/dino_r18_rem"
