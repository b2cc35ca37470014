"""Quick ScaleBridge-Det on aerial_*: DINO with density-guided queries and routed mixture attention."""

from ..common.dino import dgq, rem
from .dino_r18 import dataloader, lr_multiplier, model, optimizer, train

dgq(model, buckets=[100, 200, 300, 500], thresholds=[10, 50, 150])
rem(model)
train.output_dir = "output/quick/scalebridge_r18"
