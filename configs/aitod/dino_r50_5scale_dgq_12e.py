"""DINO with density-guided queries on AI-TOD, 12 epochs."""

from ..common.data import aitod
from ..common.models.dino import dino_r50_5scale
from ..common.parts.dino import dgq
from ..common.recipes import dino_adamw

dataset = aitod()
model = dgq(dino_r50_5scale(dataset.num_classes), warmup=dataset.iterations(16))
dataloader, optimizer, lr_multiplier, train = dino_adamw(dataset, epochs=12)
