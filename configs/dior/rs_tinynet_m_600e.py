"""RS-TinyNet on DIOR."""

from ..common.yolo import arb, mdca, pfdh
from .yolo11_m_600e import dataloader, lr_multiplier, model, optimizer, train

mdca(model)
arb(model)
pfdh(model)
train.output_dir = "output/dior/rs_tinynet_m_600e"
