"""ScaleBridge-Det on DTOD; classes and length are those of your json."""

from ..common.data.dtod import dataloader
from ..common.dino import dgq, five_scales, rem
from ..common.models.dino import model
from ..common.optim import dino_adamw as optimizer
from ..common.recipes import dino
from ..common.train import train

five_scales(model)
dgq(model)
rem(model)
# Set model.num_classes and train.max_iter to yours.
lr_multiplier = dino(dataloader, train, images=14018, epochs=24)
train.output_dir = "output/dtod/scalebridge_r50_5scale_24e"
