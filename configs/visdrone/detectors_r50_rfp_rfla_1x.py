"""DetectoRS with RFLA on VisDrone-DET."""

from ..common.data import visdrone
from ..common.models.rcnn import detectors_r50
from ..common.parts.rcnn import rfla
from ..common.recipes import rcnn_1x

dataset = visdrone()
model = rfla(detectors_r50(dataset.num_classes))
dataloader, optimizer, lr_multiplier, train = rcnn_1x(dataset)
