"""Faster R-CNN with NWD-RKA on AI-TOD."""

from ..common.data import aitod
from ..common.models.rcnn import faster_rcnn_r50
from ..common.parts.rcnn import rka
from ..common.recipes import nwd_1x

dataset = aitod()
model = rka(faster_rcnn_r50(dataset.num_classes), topk=2)
dataloader, optimizer, lr_multiplier, train = nwd_1x(dataset)
