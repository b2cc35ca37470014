"""YOLOX-m with relay and scale-adaptive loss, β = 1 (table VII)."""

from .yolox_m_sarl_sal_300e import dataloader, lr_multiplier, model, optimizer, train

model.head.box_loss.beta = 1.0
train.output_dir = "output/aitod/yolox_m_sarl_sal_beta1_300e"
