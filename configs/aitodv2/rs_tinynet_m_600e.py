"""RS-TinyNet on AI-TOD-v2."""

from ..common.yolo import arb, mdca, pfdh
from .yolo11_m_600e import dataloader, lr_multiplier, model, optimizer, train

mdca(model)
arb(model)
pfdh(model)
train.output_dir = "output/aitodv2/rs_tinynet_m_600e"
