"""YOLO11m with MDCA and PFDH on AI-TOD (RS-TinyNet, table III)."""

from ..common.data import aitod
from ..common.models.yolo import yolo11
from ..common.parts.yolo import mdca, pfdh
from ..common.recipes import ultralytics_sgd

dataset = aitod()
model = pfdh(mdca(yolo11("m", dataset.num_classes)))
dataloader, optimizer, lr_multiplier, train = ultralytics_sgd(dataset, epochs=600)
