"""DetectoRS with RFLA and E-FPN-BS on AI-TOD."""

from ..common.data import aitod
from ..common.models.rcnn import detectors_r50
from ..common.parts.rcnn import efpnbs, rfla
from ..common.recipes import rcnn_1x

dataset = aitod()
model = efpnbs(rfla(detectors_r50(dataset.num_classes)))
dataloader, optimizer, lr_multiplier, train = rcnn_1x(dataset)
