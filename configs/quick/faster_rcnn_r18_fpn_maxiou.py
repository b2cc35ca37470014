"""Quick baseline on aerial_*: the papers' anchors (8 × stride), IoU assignment."""

from detectron2.config import LazyCall as L

from d2tiny.engine.schedule import warmup_cosine

from ..common.data.aerial import dataloader
from ..common.models.faster_rcnn_r18_fpn import model
from ..common.optim import adamw as optimizer
from ..common.train import train

train.max_iter = 1000
train.output_dir = "output/quick/faster_rcnn_r18_fpn_maxiou"
train.checkpoint_period = 250
train.ema = dict(enabled=True, decay=0.995)
train.clip_norm = 10.0
optimizer.lr = 1e-3
lr_multiplier = L(warmup_cosine)(max_iter="${train.max_iter}", end_factor=0.01, warmup_iters=100)
