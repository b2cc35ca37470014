"""YOLO11m with MDCA on AI-TOD (RS-TinyNet, table III)."""

from ..common.yolo import mdca
from .yolo11_m_600e import dataloader, lr_multiplier, model, optimizer, train

mdca(model)
train.output_dir = "output/aitod/yolo11_m_mdca_600e"
