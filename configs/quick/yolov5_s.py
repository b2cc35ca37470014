"""Quick YOLOv5-s on aerial_*."""

from ..common.models.yolov5 import model
from .faster_rcnn_r18_fpn_maxiou import dataloader, lr_multiplier, optimizer, train

train.output_dir = "output/quick/yolov5_s"
