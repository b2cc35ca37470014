"""The benchmark that tells what a sparse encoder loses."""

from __future__ import annotations

import torch
from detectron2.config import instantiate

from d2tiny.config import save_config
from tests.helpers.benchmarks import value_in_benchmarks
from tests.helpers.models import config

CODE = """(lambda c, torch: (lambda run, objects, item: [
    (control, len(run.detect(item, control, objects)[0]["instances"]), run.encode, run.select,
     {name: int(mask.sum()) for name, mask in run.masks.items()},
     run.updated_at(objects.gt_boxes.get_centers().numpy(), "with objects").tolist())
    for control in c.CONTROLS
])(c.ControlledModel(Path(%r)), c.Instances((64, 96), gt_boxes=c.Boxes([[10.0, 10, 18, 17], [70, 40, 78, 47]]),
   gt_classes=torch.zeros(2, dtype=torch.int64)), {"image": torch.full((3, 64, 96), 90, dtype=torch.uint8)})
)(sparse_controls, sparse_controls.torch)"""


def test_the_tokens_of_each_control(tmp_path):
    """A new density chooses none of the fine levels; objects, lower thresholds and all tokens add to that."""
    torch.manual_seed(0)
    cfg = config("quick/dino_lite0_sparse")
    save_config(cfg, tmp_path / "config.yaml")
    torch.save({"model": instantiate(cfg.model).state_dict()}, tmp_path / "model_final.pth")
    rows = value_in_benchmarks("sparse_controls", CODE.replace("\n", " ") % str(tmp_path))
    coarse, every = 4 * 6 + 2 * 3, 16 * 24 + 8 * 12 + 4 * 6 + 2 * 3
    for control, found, encode, select, counts, reached in rows:
        assert found > 0, control
        assert counts["chosen"] == coarse and counts["all"] == every
        assert coarse + 2 * 9 < counts["with objects"] < every / 2 and reached == [True, True]
        assert coarse <= counts["× 0.3"] <= counts["× 0.1"] <= counts["× 0.03"] <= counts["× 0.01"] == every
        assert encode == select or {encode, select} == {"all", "chosen"}
