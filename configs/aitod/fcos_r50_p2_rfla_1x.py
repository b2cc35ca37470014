"""FCOS on P2-P6 with RFLA on AI-TOD."""

from ..common.data import aitod
from ..common.models.dense import fcos_r50, from_p2
from ..common.parts.rcnn import rfla_dense
from ..common.recipes import rcnn_1x

dataset = aitod()
model = rfla_dense(from_p2(fcos_r50(dataset.num_classes)))
dataloader, optimizer, lr_multiplier, train = rcnn_1x(dataset)
