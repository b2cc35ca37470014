"""Quick FCOS on P2-P6 with RFLA on aerial_*."""

from ..common.data import aerial
from ..common.models.dense import fcos_r18, from_p2
from ..common.parts.rcnn import rfla_dense
from ..common.recipes import quick

dataset = aerial()
model = rfla_dense(from_p2(fcos_r18(dataset.num_classes)))
dataloader, optimizer, lr_multiplier, train = quick(dataset)
