"""YOLOv5-m on AI-TOD, 300 epochs."""

from ..common.data.aitod import dataloader
from ..common.models.yolov5 import model
from ..common.optim import yolo_sgd as optimizer
from ..common.recipes import ultralytics
from ..common.train import train
from ..common.yolo import yolo_size

yolo_size(model, "m")
lr_multiplier = ultralytics(dataloader, train, optimizer, images=14018, epochs=300)
train.output_dir = "output/aitod/yolov5_m_300e"
