"""Quick YOLO11n with candidates for the tiniest objects on aerial_*."""

from ..common.data import aerial
from ..common.models.yolo import yolo11
from ..common.parts.yolo import tiny_candidates
from ..common.recipes import quick

dataset = aerial()
model = tiny_candidates(yolo11("n", dataset.num_classes))
dataloader, optimizer, lr_multiplier, train = quick(dataset)
