"""YOLO11m with a level of stride 4 on AI-TOD."""

from ..common.yolo import p2
from .yolo11_m_600e import dataloader, lr_multiplier, model, optimizer, train

p2(model)
train.output_dir = "output/aitod/yolo11_m_p2_600e"
