"""RS-TinyNet: YOLO11m with MDCA, ARB and PFDH on AI-TOD."""

from ..common.yolo import arb, mdca, pfdh
from .yolo11_m_600e import dataloader, lr_multiplier, model, optimizer, train

mdca(model)
arb(model)
pfdh(model)
train.output_dir = "output/aitod/rs_tinynet_m_600e"
