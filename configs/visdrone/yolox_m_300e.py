"""YOLOX-m on VisDrone-DET, 300 epochs."""

from ..common.data.visdrone import dataloader
from ..common.models.yolox import model
from ..common.optim import yolo_sgd as optimizer
from ..common.recipes import yolox
from ..common.train import train
from ..common.yolo import yolo_size

yolo_size(model, "m")
model.head.num_classes = 10
lr_multiplier = yolox(dataloader, train, optimizer, images=6471, epochs=300)
# Tables of tiny-object papers are in AI-TOD metrics.
dataloader.evaluator.protocol = "aitod"
train.output_dir = "output/visdrone/yolox_m_300e"
