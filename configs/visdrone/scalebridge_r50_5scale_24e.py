"""ScaleBridge-Det on VisDrone-DET, 24 epochs."""

from ..common.data import visdrone
from ..common.models.dino import dino_r50_5scale
from ..common.parts.dino import dgq, rem
from ..common.recipes import dino_adamw

dataset = visdrone()
model = rem(dgq(dino_r50_5scale(dataset.num_classes), warmup=dataset.iterations(16)))
dataloader, optimizer, lr_multiplier, train = dino_adamw(dataset, epochs=24)
