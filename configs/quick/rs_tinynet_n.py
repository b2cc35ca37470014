"""Quick RS-TinyNet (YOLO11n with MDCA, ARB, PFDH) on aerial_*."""

from ..common.yolo import arb, mdca, pfdh
from .yolo11_n import dataloader, lr_multiplier, model, optimizer, train

mdca(model)
arb(model)
pfdh(model)
train.output_dir = "output/quick/rs_tinynet_n"
