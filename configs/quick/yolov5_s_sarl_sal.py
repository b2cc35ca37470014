"""Quick YOLOv5-s with relay and scale-adaptive loss on aerial_*."""

from ..common.yolo import yolo_sal, yolo_sarl
from .yolov5_s import dataloader, lr_multiplier, model, optimizer, train

yolo_sarl(model)
yolo_sal(model)
train.output_dir = "output/quick/yolov5_s_sarl_sal"
