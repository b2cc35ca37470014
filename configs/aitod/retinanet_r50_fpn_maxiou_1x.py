"""RetinaNet baseline on AI-TOD."""

from ..common.data import aitod
from ..common.models.dense import retinanet_r50
from ..common.recipes import rcnn_1x

dataset = aitod()
model = retinanet_r50(dataset.num_classes)
dataloader, optimizer, lr_multiplier, train = rcnn_1x(dataset)
