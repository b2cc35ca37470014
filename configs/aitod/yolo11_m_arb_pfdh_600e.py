"""YOLO11m with ARB and PFDH on AI-TOD (RS-TinyNet, table III)."""

from ..common.yolo import arb, pfdh
from .yolo11_m_600e import dataloader, lr_multiplier, model, optimizer, train

arb(model)
pfdh(model)
train.output_dir = "output/aitod/yolo11_m_arb_pfdh_600e"
