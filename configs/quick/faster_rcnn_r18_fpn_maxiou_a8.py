"""Quick baseline with anchors of 8-128 px: the honest opponent of methods for tiny objects."""

from .faster_rcnn_r18_fpn_maxiou import dataloader, lr_multiplier, model, optimizer, train

model.proposal_generator.anchor_generator.sizes = [[8], [16], [32], [64], [128]]
train.output_dir = "output/quick/faster_rcnn_r18_fpn_maxiou_a8"
