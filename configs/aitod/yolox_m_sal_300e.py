"""YOLOX-m with the scale-adaptive loss on AI-TOD."""

from ..common.yolo import yolo_sal
from .yolox_m_300e import dataloader, lr_multiplier, model, optimizer, train

yolo_sal(model)
train.output_dir = "output/aitod/yolox_m_sal_300e"
