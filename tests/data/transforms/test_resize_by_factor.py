"""Images times a factor, in the mapper and in applications."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
import torch
from detectron2.engine import DefaultPredictor
from detectron2.modeling import build_model
from detectron2.utils.events import EventStorage

from d2tiny import model_zoo
from d2tiny.data.transforms import ResizeByFactor
from tests.helpers.images import item
from tests.helpers.models import config


def test_sizes():
    image = np.zeros((5, 8, 3), np.uint8)
    transform = ResizeByFactor(2.0).get_transform(image)
    assert transform.apply_image(image).shape == (10, 16, 3)
    assert transform.apply_box(np.array([[1.0, 1, 3, 2]])).tolist() == [[2, 2, 6, 4]]
    assert ResizeByFactor(0.01).get_transform(image).apply_image(image).shape == (1, 1, 3)
    with pytest.raises(ValueError, match="over 0"):
        ResizeByFactor(0.0)


def test_predictors_see_what_the_evaluation_sees(tmp_path):
    """The model gets the same pixels from ``DefaultPredictor`` as from the test mapper, and boxes come back in px."""
    name = "hituav/faster_rcnn_lite0_efpnbs_taught_rfla_x2"
    cfg = model_zoo.get_cfg(name, device="cpu")
    torch.manual_seed(0)
    weights = tmp_path / "w.pth"
    torch.save({"model": build_model(cfg).state_dict()}, weights)
    cfg.MODEL.WEIGHTS, cfg.MODEL.ROI_HEADS.SCORE_THRESH_TEST = str(weights), 0.0
    predictor = DefaultPredictor(cfg)
    image = np.random.default_rng(0).integers(0, 255, (40, 64, 3)).astype(np.uint8)
    seen = {}
    predictor.model.backbone.register_forward_pre_hook(lambda m, a: seen.update(size=tuple(a[0].shape[-2:])))
    found = predictor(image)["instances"]
    assert seen["size"] == (96, 128)  # 80 × 128, padded to multiples of 32
    assert found.image_size == (40, 64)
    assert float(found.pred_boxes.tensor[:, 2].max()) <= 64
    resize = config(name).dataloader.test.mapper.augmentations[0]
    assert (resize._target_, resize.factor) == (ResizeByFactor, 2.0)
    larger = ResizeByFactor(2.0).get_transform(image).apply_image(image)
    model = build_model(model_zoo.get_cfg("hituav/faster_rcnn_lite0_efpnbs_taught_rfla", device="cpu")).eval()
    model.load_state_dict(torch.load(weights)["model"])
    model.roi_heads.box_predictor.test_score_thresh = 0.0
    tensor = torch.as_tensor(cv2.cvtColor(larger, cv2.COLOR_BGR2RGB).transpose(2, 0, 1).astype("float32"))
    with torch.no_grad():
        expected = model([{"image": tensor, "height": 40, "width": 64}])[0]["instances"]
    predictor.model.train()
    seen.clear()
    with EventStorage(0):
        predictor.model([item([[10, 10, 18, 17]], (64, 96))])
    assert seen["size"] == (64, 96)  # in training the mapper resizes images and objects
    assert torch.equal(found.scores, expected.scores)
    assert torch.equal(found.pred_boxes.tensor, expected.pred_boxes.tensor)
