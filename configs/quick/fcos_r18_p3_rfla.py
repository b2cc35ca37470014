"""Quick FCOS on P3-P7 with RFLA on aerial_*."""

from ..common.data import aerial
from ..common.models.dense import fcos_r18
from ..common.parts.rcnn import rfla_dense
from ..common.recipes import quick

dataset = aerial()
model = rfla_dense(fcos_r18(dataset.num_classes))
dataloader, optimizer, lr_multiplier, train = quick(dataset)
