"""DINO and ScaleBridge-Det on DTOD."""

from ..common.data import dtod
from ..common.models.dino import dino_r50_5scale
from ..common.parts.dino import dgq, rem
from ..common.recipes import dino_adamw, experiment

# Set both to those of your json.
DATASET = dtod(num_classes=8, num_images=14018)
K = DATASET.num_classes


def scalebridge_r50_5scale_24e():
    """ScaleBridge-Det on DTOD; classes and length are those of your json."""
    return experiment(rem(dgq(dino_r50_5scale(K), warmup=DATASET.iterations(16))), dino_adamw(DATASET, epochs=24))
