"""YOLOX-m with relay and scale-adaptive loss, β = 1/ln 2 (table VII)."""

import math

from .yolox_m_sarl_sal_300e import dataloader, lr_multiplier, model, optimizer, train

model.head.box_loss.beta = 1 / math.log(2)
train.output_dir = "output/aitod/yolox_m_sarl_sal_betaln2_300e"
