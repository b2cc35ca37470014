"""Quick YOLO11n on aerial_*."""

from ..common.models.yolo11 import model
from ..common.yolo import yolo_size
from .faster_rcnn_r18_fpn_maxiou import dataloader, lr_multiplier, optimizer, train

yolo_size(model, "n")
train.output_dir = "output/quick/yolo11_n"
