"""Quick DINO on aerial_*: ResNet-18, four scales from stride 4, 300 queries."""

from ..common.data import aerial
from ..common.models.dino import dino_r18
from ..common.recipes import quick

dataset = aerial()
model = dino_r18(dataset.num_classes)
dataloader, optimizer, lr_multiplier, train = quick(dataset, max_iter=450, clip_norm=0.1)
