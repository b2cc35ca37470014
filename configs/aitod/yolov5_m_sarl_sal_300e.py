"""YOLOv5-m with relay and scale-adaptive loss on AI-TOD."""

from ..common.yolo import yolo_sal, yolo_sarl
from .yolov5_m_300e import dataloader, lr_multiplier, model, optimizer, train

yolo_sarl(model)
yolo_sal(model)
train.output_dir = "output/aitod/yolov5_m_sarl_sal_300e"
