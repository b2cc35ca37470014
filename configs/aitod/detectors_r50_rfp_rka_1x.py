"""DetectoRS with NWD-RKA on AI-TOD (SPEC §2)."""

from ..common.models.detectors import model
from ..common.parts import rka
from .faster_rcnn_r50_fpn_maxiou_1x import dataloader, lr_multiplier, optimizer, train

rka(model, topk=3)
# The papers take 0.01 for a batch of 8.
dataloader.train.total_batch_size, optimizer.lr = 8, 0.01
train.max_iter, train.eval_period = 21027, 1753
train.output_dir = "output/aitod/detectors_r50_rfp_rka_1x"
