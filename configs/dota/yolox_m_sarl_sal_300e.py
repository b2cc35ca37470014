"""YOLOX-m with relay and scale-adaptive loss on DOTA-v2.0 tiles."""

from ..common.yolo import yolo_sal, yolo_sarl
from .yolox_m_300e import dataloader, lr_multiplier, model, optimizer, train

yolo_sarl(model)
yolo_sal(model)
train.output_dir = "output/dota/yolox_m_sarl_sal_300e"
