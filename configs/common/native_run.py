"""What ``lazy_from_yacs`` fills in from a native YAML config."""

from detectron2.config import LazyCall as L
from detectron2.data import transforms as T

from d2tiny.config.native import build_yacs_model
from d2tiny.engine.schedule import warmup_multistep

from .data.aitod import dataloader
from .optim import sgd as optimizer
from .train import train

model = L(build_yacs_model)(yaml="")
flip = dataloader.train.mapper.augmentations[0]
flip.vertical = False
resize = L(T.ResizeShortestEdge)(short_edge_length=[0], max_size=0, sample_style="choice")
dataloader.train.mapper.augmentations.insert(0, resize)
dataloader.test.mapper.augmentations.insert(0, resize)
optimizer.nesterov = False
train.amp.dtype = "float16"
lr_multiplier = L(warmup_multistep)(
    max_iter="${train.max_iter}",
    milestones=[8 / 12, 11 / 12],
    gamma=0.1,
    warmup_iters=1000,
    warmup_factor=0.001,
)
