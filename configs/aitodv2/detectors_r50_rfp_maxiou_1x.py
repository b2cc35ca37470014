"""DetectoRS baseline on AI-TOD-v2."""

from ..common.data import aitodv2
from ..common.models.rcnn import detectors_r50
from ..common.recipes import rcnn_1x

dataset = aitodv2()
model = detectors_r50(dataset.num_classes)
dataloader, optimizer, lr_multiplier, train = rcnn_1x(dataset)
