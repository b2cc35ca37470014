"""Quick DINO with routed mixture attention on aerial_*."""

from ..common.data import aerial
from ..common.models.dino import dino_r18
from ..common.parts.dino import rem
from ..common.recipes import quick

dataset = aerial()
model = rem(dino_r18(dataset.num_classes))
dataloader, optimizer, lr_multiplier, train = quick(dataset, max_iter=450, clip_norm=0.1)
