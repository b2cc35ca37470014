"""YOLO11m with MDCA and ARB on AI-TOD (RS-TinyNet, table III)."""

from ..common.yolo import arb, mdca
from .yolo11_m_600e import dataloader, lr_multiplier, model, optimizer, train

mdca(model)
arb(model)
train.output_dir = "output/aitod/yolo11_m_mdca_arb_600e"
