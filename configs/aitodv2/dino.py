"""DINO and ScaleBridge-Det on AI-TOD-v2."""

from ..common.data import aitodv2
from ..common.models.dino import dino_r50_5scale
from ..common.parts.dino import dgq, rem
from ..common.recipes import dino_adamw, experiment

DATASET = aitodv2()
K = DATASET.num_classes


def dino_r50_5scale_24e():
    """DINO with a ResNet-50 on five scales on AI-TOD-v2, 24 epochs."""
    return experiment(dino_r50_5scale(K), dino_adamw(DATASET, epochs=24))


def dino_r50_5scale_dgq_24e():
    """DINO with density-guided queries on AI-TOD-v2, 24 epochs."""
    return experiment(dgq(dino_r50_5scale(K), warmup=DATASET.iterations(16)), dino_adamw(DATASET, epochs=24))


def dino_r50_5scale_rem_24e():
    """DINO with routed mixture attention on AI-TOD-v2, 24 epochs."""
    return experiment(rem(dino_r50_5scale(K)), dino_adamw(DATASET, epochs=24))


def scalebridge_r50_5scale_24e():
    """ScaleBridge-Det on AI-TOD-v2, 24 epochs."""
    return experiment(rem(dgq(dino_r50_5scale(K), warmup=DATASET.iterations(16))), dino_adamw(DATASET, epochs=24))
