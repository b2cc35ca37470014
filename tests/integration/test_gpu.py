"""One step of each family on a GPU; skipped, with the reason, where PyTorch sees none."""

from __future__ import annotations

import pytest
from detectron2.config import instantiate

from tests.helpers.models import BATCHES, config, narrow, step

pytestmark = pytest.mark.gpu


@pytest.mark.parametrize("name", ["faster_rcnn_r18_fpn_rfla", "fcos_r18_p2_rfla", "yolox_s", "dino_r18"])
def test_trains_a_step(name):
    model = instantiate(narrow(config(f"quick/{name}")).model).to("cuda")
    for batch in BATCHES.values():
        step(model, batch)
