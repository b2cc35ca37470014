"""Real aerial tiles and scenes; skipped, with the reason, where they are absent."""

from __future__ import annotations

import json

import cv2
import pytest
from detectron2.engine import DefaultPredictor

from d2tiny import model_zoo
from d2tiny.cli.train import train_main

pytestmark = [pytest.mark.real_data, pytest.mark.slow]


def test_trains_and_evaluates_on_real_tiles(shared_data, monkeypatch, tmp_path):
    monkeypatch.setenv("DETECTRON2_DATASETS", str(shared_data))
    code = train_main(
        [
            "--config-file",
            "quick/faster_rcnn_r18_fpn_rfla",
            "train.max_iter=2",
            "train.num_threads=1",
            "train.device=cpu",
            "dataloader.train.total_batch_size=2",
            f"train.output_dir='{tmp_path}'",
        ]
    )
    assert code == 0
    metrics = json.loads((tmp_path / "result.json").read_text())["metrics"]
    assert metrics["AP"] is not None
    assert metrics["AP-bridge"] is None  # no bridges in these tiles


def test_whole_scene(shared_data):
    """A scene of 4000×2250 px at its native size."""
    image = cv2.imread(str(shared_data / "large" / "brighton_DJI_0027_unlabelled.jpg"))
    assert image.shape[:2] == (2250, 4000)
    cfg = model_zoo.get_cfg("quick/faster_rcnn_r18_fpn_rfla", device="cpu")
    cfg.MODEL.ROI_HEADS.SCORE_THRESH_TEST = 0.0
    instances = DefaultPredictor(cfg)(image)["instances"]
    assert instances.image_size == (2250, 4000)
    assert 0 < len(instances) <= 1500
