"""RetinaNet with RFLA on AI-TOD."""

from ..common.data import aitod
from ..common.models.dense import retinanet_r50
from ..common.parts.rcnn import rfla_dense
from ..common.recipes import rcnn_1x

dataset = aitod()
model = rfla_dense(retinanet_r50(dataset.num_classes))
dataloader, optimizer, lr_multiplier, train = rcnn_1x(dataset)
