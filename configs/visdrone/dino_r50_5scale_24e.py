"""DINO with a ResNet-50 on five scales on VisDrone-DET, 24 epochs."""

from ..common.data.visdrone import dataloader
from ..common.dino import five_scales
from ..common.models.dino import model
from ..common.optim import dino_adamw as optimizer
from ..common.recipes import dino
from ..common.train import train

five_scales(model)
model.num_classes = 10
# Tables of tiny-object papers are in AI-TOD metrics.
dataloader.evaluator.protocol = "aitod"
lr_multiplier = dino(dataloader, train, images=6471, epochs=24)
train.output_dir = "output/visdrone/dino_r50_5scale_24e"
