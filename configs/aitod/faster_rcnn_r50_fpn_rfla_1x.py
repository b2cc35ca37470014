"""Faster R-CNN with RFLA on AI-TOD."""

from .faster_rcnn_r50_fpn_maxiou_1x import train

train.output_dir = "output/aitod/faster_rcnn_r50_fpn_rfla_1x"
