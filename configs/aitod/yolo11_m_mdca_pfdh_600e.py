"""YOLO11m with MDCA and PFDH on AI-TOD (RS-TinyNet, table III)."""

from ..common.yolo import mdca, pfdh
from .yolo11_m_600e import dataloader, lr_multiplier, model, optimizer, train

mdca(model)
pfdh(model)
train.output_dir = "output/aitod/yolo11_m_mdca_pfdh_600e"
