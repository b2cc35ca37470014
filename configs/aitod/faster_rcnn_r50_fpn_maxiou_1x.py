"""Faster R-CNN baseline on AI-TOD: anchors of 8 × stride, IoU assignment, 12 epochs of batch 2."""

from detectron2.config import LazyCall as L

from d2tiny.engine.schedule import warmup_multistep

from ..common.data.aitod import dataloader
from ..common.models.faster_rcnn_fpn import model
from ..common.optim import sgd as optimizer
from ..common.train import train

# 14,018 images / 2 = 7,009 iterations an epoch; the rate falls after epochs 8 and 11.
train.max_iter = 84108
train.eval_period = 7009
train.init_checkpoint = "detectron2://ImageNetPretrained/torchvision/R-50.pkl"
train.output_dir = "output/aitod/faster_rcnn_r50_fpn_maxiou_1x"
optimizer.lr = 0.005
lr_multiplier = L(warmup_multistep)(max_iter="${train.max_iter}", milestones=[8 / 12, 11 / 12], warmup_iters=5000)
