"""Quick ScaleBridge-Det on aerial_*: DINO with density-guided queries and routed mixture attention."""

from ..common.data import aerial
from ..common.models.dino import dino_r18
from ..common.parts.dino import dgq, rem
from ..common.recipes import quick

dataset = aerial()
model = rem(dgq(dino_r18(dataset.num_classes), buckets=[100, 200, 300, 500], thresholds=[10, 50, 150]))
dataloader, optimizer, lr_multiplier, train = quick(dataset, max_iter=450, clip_norm=0.1)
