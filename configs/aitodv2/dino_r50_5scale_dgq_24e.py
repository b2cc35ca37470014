"""DINO with density-guided queries on AI-TOD-v2, 24 epochs."""

from ..common.data import aitodv2
from ..common.models.dino import dino_r50_5scale
from ..common.parts.dino import dgq
from ..common.recipes import dino_adamw

dataset = aitodv2()
model = dgq(dino_r50_5scale(dataset.num_classes), warmup=dataset.iterations(16))
dataloader, optimizer, lr_multiplier, train = dino_adamw(dataset, epochs=24)
