"""YOLOv5-m on DIOR."""

from ..common.data.dior import dataloader
from ..common.models.yolov5 import model
from ..common.optim import yolo_sgd as optimizer
from ..common.recipes import ultralytics
from ..common.train import train
from ..common.yolo import yolo_size

yolo_size(model, "m")
model.head.num_classes = 20
lr_multiplier = ultralytics(dataloader, train, optimizer, images=11725, epochs=600)
train.output_dir = "output/dior/yolov5_m_600e"
