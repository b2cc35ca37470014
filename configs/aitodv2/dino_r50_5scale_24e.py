"""DINO with a ResNet-50 on five scales on AI-TOD-v2, 24 epochs."""

from ..common.data.aitodv2 import dataloader
from ..common.dino import five_scales
from ..common.models.dino import model
from ..common.optim import dino_adamw as optimizer
from ..common.recipes import dino
from ..common.train import train

five_scales(model)
lr_multiplier = dino(dataloader, train, images=14018, epochs=24)
train.output_dir = "output/aitodv2/dino_r50_5scale_24e"
