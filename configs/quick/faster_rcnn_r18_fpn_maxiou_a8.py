"""Quick baseline with anchors of 8-128 px: the honest opponent of methods for tiny objects."""

from ..common.data import aerial
from ..common.models.rcnn import faster_rcnn_r18
from ..common.parts.rcnn import anchors_8_to_128
from ..common.recipes import quick

dataset = aerial()
model = anchors_8_to_128(faster_rcnn_r18(dataset.num_classes))
dataloader, optimizer, lr_multiplier, train = quick(dataset)
