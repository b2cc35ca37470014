"""DINO and ScaleBridge-Det on HIT-UAV from ImageNet weights: EfficientNet-Lite0 for processors."""

from ..common.data import hituav
from ..common.models.dino import dino_lite0_4scale
from ..common.parts.dino import FEW_OBJECTS, count_classes, dgq, rem, sparse
from ..common.recipes import experiment, whole_images

DATASET = hituav()
K = DATASET.num_classes


def dino_lite0():
    """DINO on HIT-UAV: four scales from stride 4, 300 queries."""
    return experiment(dino_lite0_4scale(K), whole_images(DATASET, clip_norm=0.1))


def dino_lite0_dgq():
    """DINO with density-guided queries on HIT-UAV."""
    return experiment(dgq(dino_lite0_4scale(K), **FEW_OBJECTS), whole_images(DATASET, clip_norm=0.1))


def dino_lite0_dgq_classes():
    """The same; a classifier of the number of objects as in DQ-DETR chooses the number of queries."""
    model = count_classes(dgq(dino_lite0_4scale(K), **FEW_OBJECTS), hidden_dim=64)
    return experiment(model, whole_images(DATASET, clip_norm=0.1))


def dino_lite0_sparse():
    """DINO on HIT-UAV whose encoder updates only tokens where objects may be."""
    return experiment(sparse(dino_lite0_4scale(K)), whole_images(DATASET, clip_norm=0.1))


def dino_lite0_dgq_sparse():
    """DINO with density-guided queries on HIT-UAV, whose encoder updates only tokens where objects may be."""
    return experiment(sparse(dgq(dino_lite0_4scale(K), **FEW_OBJECTS)), whole_images(DATASET, clip_norm=0.1))


def dino_lite0_rem():
    """DINO with routed mixture attention on HIT-UAV."""
    return experiment(rem(dino_lite0_4scale(K)), whole_images(DATASET, clip_norm=0.1))


def dino_lite0_rem_scale():
    """The same; the gate of the experts for tiny objects learns where these are."""
    return experiment(rem(dino_lite0_4scale(K), scale_weight=0.1), whole_images(DATASET, clip_norm=0.1))


def scalebridge_lite0():
    """ScaleBridge-Det on HIT-UAV: DINO with density-guided queries and routed mixture attention."""
    return experiment(rem(dgq(dino_lite0_4scale(K), **FEW_OBJECTS)), whole_images(DATASET, clip_norm=0.1))


def scalebridge_lite0_sparse():
    """ScaleBridge-Det on HIT-UAV whose encoder updates only tokens where objects may be."""
    return experiment(sparse(rem(dgq(dino_lite0_4scale(K), **FEW_OBJECTS))), whole_images(DATASET, clip_norm=0.1))
