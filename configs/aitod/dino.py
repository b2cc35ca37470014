"""DINO and ScaleBridge-Det on AI-TOD."""

from ..common.data import aitod
from ..common.models.dino import dino_r50_4scale, dino_r50_5scale
from ..common.parts.dino import dgq, rem, sparse
from ..common.recipes import dino_adamw, experiment

DATASET = aitod()
K = DATASET.num_classes


def dino_r50_4scale_12e():
    """DINO with a ResNet-50 on four scales on AI-TOD, 12 epochs."""
    return experiment(dino_r50_4scale(K), dino_adamw(DATASET, epochs=12))


def dino_r50_5scale_12e():
    """DINO with a ResNet-50 on five scales on AI-TOD, 12 epochs."""
    return experiment(dino_r50_5scale(K), dino_adamw(DATASET, epochs=12))


def dino_r50_5scale_dgq_12e():
    """DINO with density-guided queries on AI-TOD, 12 epochs."""
    return experiment(dgq(dino_r50_5scale(K), warmup=DATASET.iterations(16)), dino_adamw(DATASET, epochs=12))


def dino_r50_5scale_rem_12e():
    """DINO with routed mixture attention on AI-TOD, 12 epochs."""
    return experiment(rem(dino_r50_5scale(K)), dino_adamw(DATASET, epochs=12))


def dino_r50_5scale_sparse_12e():
    """DINO on AI-TOD whose encoder updates only tokens where objects may be, 12 epochs."""
    return experiment(sparse(dino_r50_5scale(K)), dino_adamw(DATASET, epochs=12))


def scalebridge_r50_5scale_12e():
    """ScaleBridge-Det on AI-TOD, 12 epochs."""
    return experiment(rem(dgq(dino_r50_5scale(K), warmup=DATASET.iterations(16))), dino_adamw(DATASET, epochs=12))


def scalebridge_r50_5scale_sparse_12e():
    """ScaleBridge-Det on AI-TOD whose encoder updates only tokens where objects may be, 12 epochs."""
    model = sparse(rem(dgq(dino_r50_5scale(K), warmup=DATASET.iterations(16))))
    return experiment(model, dino_adamw(DATASET, epochs=12))
