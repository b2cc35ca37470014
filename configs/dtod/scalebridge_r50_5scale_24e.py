"""ScaleBridge-Det on DTOD; classes and length are those of your json."""

from ..common.data import dtod
from ..common.models.dino import dino_r50_5scale
from ..common.parts.dino import dgq, rem
from ..common.recipes import dino_adamw

# Set both to those of your json.
dataset = dtod(num_classes=8, num_images=14018)
model = rem(dgq(dino_r50_5scale(dataset.num_classes)))
dataloader, optimizer, lr_multiplier, train = dino_adamw(dataset, epochs=24)
