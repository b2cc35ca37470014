"""DINO with a ResNet-50 on four scales on AI-TOD, 12 epochs."""

from ..common.data import aitod
from ..common.models.dino import dino_r50_4scale
from ..common.recipes import dino_adamw

dataset = aitod()
model = dino_r50_4scale(dataset.num_classes)
dataloader, optimizer, lr_multiplier, train = dino_adamw(dataset, epochs=12)
