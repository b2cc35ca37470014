"""DetectoRS baseline on VisDrone-DET."""

from ..common.data import visdrone
from ..common.models.rcnn import detectors_r50
from ..common.recipes import rcnn_1x

dataset = visdrone()
model = detectors_r50(dataset.num_classes)
dataloader, optimizer, lr_multiplier, train = rcnn_1x(dataset)
