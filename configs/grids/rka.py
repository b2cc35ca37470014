"""DetectoRS with NWD-RKA on the benchmarks of the tables of tiny-object papers."""

from ..common.models.rcnn import detectors_r50
from ..common.parts.rcnn import rka
from ..common.recipes import experiment, nwd_1x

DATASETS = ("aitod", "aitodv2")


def detectors_r50_rfp_rka_1x(dataset):
    """DetectoRS with NWD-RKA."""
    return experiment(rka(detectors_r50(dataset.num_classes), topk=3), nwd_1x(dataset))
