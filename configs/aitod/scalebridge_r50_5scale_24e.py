"""ScaleBridge-Det on AI-TOD, 24 epochs."""

from ..common.data.aitod import dataloader
from ..common.dino import dgq, five_scales, rem
from ..common.models.dino import model
from ..common.optim import dino_adamw as optimizer
from ..common.recipes import dino
from ..common.train import train

five_scales(model)
dgq(model, warmup=877)
rem(model)
lr_multiplier = dino(dataloader, train, images=14018, epochs=24)
train.output_dir = "output/aitod/scalebridge_r50_5scale_24e"
