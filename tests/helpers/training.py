"""Trainings of a detector narrow enough for seconds."""

from __future__ import annotations

import json
from pathlib import Path

CONFIG = "quick/faster_rcnn_r18_efpnbs_rfla_dcloss"
# 16 channels, 64² crops: a smaller crop leaves batch norm a single value.
SMALL = [
    "dataloader.train.mapper.augmentations.0.size=[64,64]",
    "dataloader.train.total_batch_size=2",
    "model.backbone.backbone.out_channels=16",
    "model.proposal_generator.pre_nms_topk=[50,50]",
    "model.proposal_generator.post_nms_topk=[20,20]",
    "model.roi_heads.box_head.fc_dims=[16]",
    "train.log_period=1",
    "train.num_threads=1",
    "train.device=cpu",
]


def settings(output: Path, *more: str) -> list[str]:
    """Return the overrides of a small training that writes to ``output``."""
    return [*SMALL, f"train.output_dir='{output}'", *more]


def losses(output: Path) -> dict[int, float]:
    """Return the total loss of each iteration."""
    lines = [json.loads(line) for line in (output / "metrics.json").read_text().splitlines()]
    return {line["iteration"]: line["total_loss"] for line in lines if "total_loss" in line}
