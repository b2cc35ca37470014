"""YOLO11m with candidates for the tiniest objects on AI-TOD."""

from ..common.yolo import tiny_candidates
from .yolo11_m_600e import dataloader, lr_multiplier, model, optimizer, train

tiny_candidates(model)
train.output_dir = "output/aitod/yolo11_m_tinytal_600e"
