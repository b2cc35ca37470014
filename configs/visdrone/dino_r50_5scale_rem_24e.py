"""DINO with routed mixture attention on VisDrone-DET, 24 epochs."""

from ..common.data import visdrone
from ..common.models.dino import dino_r50_5scale
from ..common.parts.dino import rem
from ..common.recipes import dino_adamw

dataset = visdrone()
model = rem(dino_r50_5scale(dataset.num_classes))
dataloader, optimizer, lr_multiplier, train = dino_adamw(dataset, epochs=24)
