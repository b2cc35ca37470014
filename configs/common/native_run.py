"""The lazy config that ``lazy_from_yacs`` fills in from a native YAML config."""

from detectron2.config import LazyCall as L
from detectron2.data import transforms as T

from d2tiny.config.native import build_yacs_model
from d2tiny.engine.schedule import warmup_multistep

from .data import aitod
from .data import dataloader as loaders
from .recipes import settings, sgd

resize = L(T.ResizeShortestEdge)(short_edge_length=[0], max_size=0, sample_style="choice")
flip = L(T.RandomFlip)(prob=0.5, horizontal=True, vertical=False)

model = L(build_yacs_model)(yaml="")
dataloader = loaders(aitod(), 2, [resize, flip])
dataloader["test"].mapper.augmentations = [resize]
optimizer = sgd()
optimizer.nesterov = False
train = settings(amp=dict(enabled=False, dtype="float16"))
lr_multiplier = L(warmup_multistep)(
    max_iter="${train.max_iter}",
    milestones=[8 / 12, 11 / 12],
    gamma=0.1,
    warmup_iters=1000,
    warmup_factor=0.001,
)
