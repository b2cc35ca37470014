"""YOLOv5-m with the SARL relay on AI-TOD."""

from ..common.yolo import yolo_sarl
from .yolov5_m_300e import dataloader, lr_multiplier, model, optimizer, train

yolo_sarl(model)
train.output_dir = "output/aitod/yolov5_m_sarl_300e"
