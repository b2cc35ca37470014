"""Quick RetinaNet with RFLA on aerial_*."""

from ..common.data import aerial
from ..common.models.dense import retinanet_r18
from ..common.parts.rcnn import rfla_dense
from ..common.recipes import quick

dataset = aerial()
model = rfla_dense(retinanet_r18(dataset.num_classes))
dataloader, optimizer, lr_multiplier, train = quick(dataset)
