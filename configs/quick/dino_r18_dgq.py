"""Quick DINO with density-guided queries on aerial_*."""

from ..common.dino import dgq
from .dino_r18 import dataloader, lr_multiplier, model, optimizer, train

dgq(model, buckets=[100, 200, 300, 500], thresholds=[10, 50, 150])
train.output_dir = "output/quick/dino_r18_dgq"
