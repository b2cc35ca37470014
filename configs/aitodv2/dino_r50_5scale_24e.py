"""DINO with a ResNet-50 on five scales on AI-TOD-v2, 24 epochs."""

from ..common.data import aitodv2
from ..common.models.dino import dino_r50_5scale
from ..common.recipes import dino_adamw

dataset = aitodv2()
model = dino_r50_5scale(dataset.num_classes)
dataloader, optimizer, lr_multiplier, train = dino_adamw(dataset, epochs=24)
