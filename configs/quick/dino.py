"""DINO and ScaleBridge-Det on small aerial tiles: quick trainings on a processor."""

from ..common.data import aerial
from ..common.models.dino import dino_lite0_4scale, dino_r18_4scale
from ..common.parts.dino import FEW_OBJECTS, count_classes, dgq, rem, sparse
from ..common.recipes import experiment, pretrained_quick, quick

DATASET = aerial()
K = DATASET.num_classes


def dino_lite0():
    """Quick DINO on aerial_*, from ImageNet weights: EfficientNet-Lite0, four scales from stride 4, 300 queries."""
    return experiment(dino_lite0_4scale(K), pretrained_quick(DATASET, max_iter=450, clip_norm=0.1))


def dino_lite0_dgq():
    """Quick DINO with density-guided queries on aerial_*, from ImageNet weights."""
    return experiment(dgq(dino_lite0_4scale(K), **FEW_OBJECTS), pretrained_quick(DATASET, max_iter=450, clip_norm=0.1))


def dino_lite0_dgq_classes():
    """The same; a classifier of the number of objects as in DQ-DETR chooses the number of queries."""
    model = count_classes(dgq(dino_lite0_4scale(K), **FEW_OBJECTS), hidden_dim=64)
    return experiment(model, pretrained_quick(DATASET, max_iter=450, clip_norm=0.1))


def dino_lite0_dgq_sparse():
    """Quick DINO with density-guided queries on aerial_*, whose encoder updates only tokens where objects may be."""
    model = sparse(dgq(dino_lite0_4scale(K), **FEW_OBJECTS))
    return experiment(model, pretrained_quick(DATASET, max_iter=450, clip_norm=0.1))


def dino_lite0_rem():
    """Quick DINO with routed mixture attention on aerial_*, from ImageNet weights."""
    return experiment(rem(dino_lite0_4scale(K)), pretrained_quick(DATASET, max_iter=450, clip_norm=0.1))


def scalebridge_lite0():
    """Quick ScaleBridge-Det on aerial_*, from ImageNet weights: DINO with DGQ and REM."""
    model = rem(dgq(dino_lite0_4scale(K), **FEW_OBJECTS))
    return experiment(model, pretrained_quick(DATASET, max_iter=450, clip_norm=0.1))


def scalebridge_lite0_sparse():
    """Quick ScaleBridge-Det on aerial_*, whose encoder updates only tokens where objects may be."""
    model = sparse(rem(dgq(dino_lite0_4scale(K), **FEW_OBJECTS)))
    return experiment(model, pretrained_quick(DATASET, max_iter=450, clip_norm=0.1))


def dino_lite0_sparse():
    """Quick DINO on aerial_*, from ImageNet weights, whose encoder updates only tokens where objects may be."""
    return experiment(sparse(dino_lite0_4scale(K)), pretrained_quick(DATASET, max_iter=450, clip_norm=0.1))


def dino_r18():
    """Quick DINO on aerial_*: ResNet-18, four scales from stride 4, 300 queries."""
    return experiment(dino_r18_4scale(K), quick(DATASET, max_iter=450, clip_norm=0.1))


def dino_r18_dgq():
    """Quick DINO with density-guided queries on aerial_*."""
    return experiment(
        dgq(dino_r18_4scale(K), **FEW_OBJECTS),
        quick(DATASET, max_iter=450, clip_norm=0.1),
    )


def dino_r18_rem():
    """Quick DINO with routed mixture attention on aerial_*."""
    return experiment(rem(dino_r18_4scale(K)), quick(DATASET, max_iter=450, clip_norm=0.1))


def scalebridge_r18():
    """Quick ScaleBridge-Det on aerial_*: DINO with density-guided queries and routed mixture attention."""
    return experiment(
        rem(dgq(dino_r18_4scale(K), **FEW_OBJECTS)),
        quick(DATASET, max_iter=450, clip_norm=0.1),
    )
