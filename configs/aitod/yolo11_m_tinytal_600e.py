"""YOLO11m with candidates for the tiniest objects on AI-TOD."""

from ..common.data import aitod
from ..common.models.yolo import yolo11
from ..common.parts.yolo import tiny_candidates
from ..common.recipes import ultralytics_sgd

dataset = aitod()
model = tiny_candidates(yolo11("m", dataset.num_classes))
dataloader, optimizer, lr_multiplier, train = ultralytics_sgd(dataset, epochs=600)
