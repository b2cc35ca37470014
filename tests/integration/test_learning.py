"""The whole chain learns: drawn scenes, training, evaluation."""

from __future__ import annotations

import pytest

from d2tiny.config import load_config
from d2tiny.data.datasets import register_coco_like
from d2tiny.engine.run import run
from d2tiny.synthetic import write_dataset


@pytest.mark.slow
@pytest.mark.parametrize("config", ["faster_rcnn_r18_fpn_rfla", "faster_rcnn_r18_efpnbs_rfla_dcloss"])
def test_overfits_a_few_scenes(tmp_path, config):
    """Six scenes learned by heart: AP50 of at least 50 on the same scenes."""
    files = write_dataset(tmp_path / "data", train=6, val=1, height=96, width=96, seed=11)
    name = f"overfit_{tmp_path.name}"
    register_coco_like(name, files["train_json"], files["train_images"])
    overrides = [
        f"dataloader.train.dataset.names={name}",
        f"dataloader.test.dataset.names={name}",
        "dataloader.train.mapper.augmentations=[]",
        "dataloader.train.total_batch_size=3",
        f"train.output_dir='{tmp_path}/run'",
        "train.max_iter=90",
        "train.ema.decay=0.9",
        "train.num_threads=1",
        "train.device=cpu",
        "lr_multiplier.warmup_iters=20",
    ]
    metrics = run(load_config(f"quick/{config}", overrides))
    assert metrics["AP50"] >= 50, metrics
