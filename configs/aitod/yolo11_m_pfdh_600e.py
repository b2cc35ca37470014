"""YOLO11m with PFDH on AI-TOD (RS-TinyNet, table III)."""

from ..common.data import aitod
from ..common.models.yolo import yolo11
from ..common.parts.yolo import pfdh
from ..common.recipes import ultralytics_sgd

dataset = aitod()
model = pfdh(yolo11("m", dataset.num_classes))
dataloader, optimizer, lr_multiplier, train = ultralytics_sgd(dataset, epochs=600)
