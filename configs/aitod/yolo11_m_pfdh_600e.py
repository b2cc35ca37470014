"""YOLO11m with PFDH on AI-TOD (RS-TinyNet, table III)."""

from ..common.yolo import pfdh
from .yolo11_m_600e import dataloader, lr_multiplier, model, optimizer, train

pfdh(model)
train.output_dir = "output/aitod/yolo11_m_pfdh_600e"
