"""DINO with density-guided queries on AI-TOD, 12 epochs."""

from ..common.data.aitod import dataloader
from ..common.dino import dgq, five_scales
from ..common.models.dino import model
from ..common.optim import dino_adamw as optimizer
from ..common.recipes import dino
from ..common.train import train

five_scales(model)
dgq(model, warmup=877)
lr_multiplier = dino(dataloader, train, images=14018, epochs=12)
train.output_dir = "output/aitod/dino_r50_5scale_dgq_12e"
