"""The native YAML files under Detectron2's own trainer and evaluator."""

from __future__ import annotations

import pytest
import torch
from detectron2.engine import DefaultTrainer

from d2tiny import model_zoo
from d2tiny.evaluation import TinyCOCOEvaluator
from tests.helpers.models import NARROW_YAML


class Trainer(DefaultTrainer):
    @classmethod
    def build_evaluator(cls, cfg, dataset_name):
        return TinyCOCOEvaluator(dataset_name)


@pytest.mark.slow
@pytest.mark.parametrize("name", model_zoo.list_configs("yaml/*"))
def test_trains_evaluates_and_resumes(name, datasets, tmp_path):
    changes = [
        *NARROW_YAML,
        "DATASETS.TRAIN=('aerial_train',)",
        "DATASETS.TEST=('aerial_val',)",
        "MODEL.ROI_HEADS.NUM_CLASSES=8",
        "DATALOADER.NUM_WORKERS=0",
        "SOLVER.IMS_PER_BATCH=2",
        "SOLVER.STEPS=(1,)",
        "TEST.EVAL_PERIOD=0",
        f"OUTPUT_DIR={tmp_path}",
    ]

    def trainer(iterations):
        cfg = model_zoo.get_cfg(name, device="cpu", overrides=[*changes, f"SOLVER.MAX_ITER={iterations}"])
        torch.manual_seed(0)
        return Trainer(cfg)

    first = trainer(2)
    first.resume_or_load(resume=False)
    first.train()
    assert "AP" in first._last_eval_results["bbox"]
    again = trainer(3)
    again.resume_or_load(resume=True)
    assert again.start_iter == 2
    again.train()
    assert (tmp_path / "model_final.pth").is_file()
