"""Optimizers."""

import torch
from detectron2.config import LazyCall as L

from d2tiny.engine.optim import parameter_groups

sgd = L(torch.optim.SGD)(
    params=L(parameter_groups)(model=None, weight_decay_norm=0.0),
    lr=0.02,
    momentum=0.9,
    weight_decay=1e-4,
)
adamw = L(torch.optim.AdamW)(
    params=L(parameter_groups)(model=None, weight_decay_norm=0.0),
    lr=1e-4,
    betas=(0.9, 0.999),
    weight_decay=0.05,
)
yolo_sgd = L(torch.optim.SGD)(
    params=L(parameter_groups)(model=None, weight_decay_norm=0.0, weight_decay_bias=0.0),
    lr=0.01,
    momentum=0.937,
    nesterov=True,
    weight_decay=5e-4,
)
dino_adamw = L(torch.optim.AdamW)(
    params=L(parameter_groups)(
        model=None, weight_decay_norm=None, base_lr="${..lr}", lr_factors={"backbone.backbone.": 0.1}
    ),
    lr=1e-4,
    betas=(0.9, 0.999),
    weight_decay=1e-4,
)
