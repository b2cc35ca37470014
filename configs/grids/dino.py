"""DINO and ScaleBridge-Det on the benchmarks of the tables of tiny-object papers."""

from ..common.models.dino import dino_r50_5scale
from ..common.parts.dino import dgq, rem
from ..common.recipes import dino_adamw, dino_published, experiment

DATASETS = ("aitod", "aitodv2", "visdrone")


def dino_r50_5scale_24e(dataset):
    """DINO with a ResNet-50 on five scales, 24 epochs."""
    return experiment(dino_r50_5scale(dataset.num_classes), dino_adamw(dataset, epochs=24))


def dino_r50_5scale_36e(dataset):
    """DINO with a ResNet-50 on five scales as published: 36 epochs of images of several sizes and crops."""
    return experiment(dino_r50_5scale(dataset.num_classes), dino_published(dataset))


def dino_r50_5scale_dgq_24e(dataset):
    """DINO with density-guided queries, 24 epochs."""
    return experiment(
        dgq(dino_r50_5scale(dataset.num_classes), warmup=dataset.iterations(16)), dino_adamw(dataset, epochs=24)
    )


def dino_r50_5scale_rem_24e(dataset):
    """DINO with routed mixture attention, 24 epochs."""
    return experiment(rem(dino_r50_5scale(dataset.num_classes)), dino_adamw(dataset, epochs=24))


def scalebridge_r50_5scale_24e(dataset):
    """ScaleBridge-Det, 24 epochs."""
    return experiment(
        rem(dgq(dino_r50_5scale(dataset.num_classes), warmup=dataset.iterations(16))), dino_adamw(dataset, epochs=24)
    )
