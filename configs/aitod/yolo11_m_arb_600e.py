"""YOLO11m with ARB on AI-TOD (RS-TinyNet, table III)."""

from ..common.yolo import arb
from .yolo11_m_600e import dataloader, lr_multiplier, model, optimizer, train

arb(model)
train.output_dir = "output/aitod/yolo11_m_arb_600e"
