"""DetectoRS with NWD-RKA on AI-TOD-v2."""

from ..common.data import aitodv2
from ..common.models.rcnn import detectors_r50
from ..common.parts.rcnn import rka
from ..common.recipes import nwd_1x

dataset = aitodv2()
model = rka(detectors_r50(dataset.num_classes), topk=3)
dataloader, optimizer, lr_multiplier, train = nwd_1x(dataset)
