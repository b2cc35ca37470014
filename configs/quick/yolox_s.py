"""Quick YOLOX-s on aerial_*."""

from ..common.models.yolox import model
from .faster_rcnn_r18_fpn_maxiou import dataloader, lr_multiplier, optimizer, train

dataloader.train.mapper.image_format = dataloader.test.mapper.image_format = "BGR"
model.head.max_detections = 1500
train.output_dir = "output/quick/yolox_s"
