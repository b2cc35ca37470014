"""Exported detectors of every family find what the models find, in images of any size."""

from __future__ import annotations

import json

import cv2
import numpy as np
import pytest
import torch
from detectron2.config import instantiate

from d2tiny import model_zoo
from d2tiny.export import ExportSettings, export_model
from d2tiny.export import comparison as checks
from d2tiny.engine.checkpoint import write_checkpoint
from d2tiny.inference.detector import ExportedDetector
from d2tiny.inference.torch_detector import TorchDetector
from d2tiny.runtime import ArrayDetections
from d2tiny.utils.errors import CheckpointError, ConfigError
from tests.helpers.models import calibrate, config

SIZES = ((96, 128), (75, 110), (64, 197))
FAMILIES = {
    "faster_rcnn": "quick/faster_rcnn_lite0_efpnbs_rfla",
    "cascade_rcnn": "quick/cascade_rcnn_r18_fpn_rfla",
    "detectors": "quick/detectors_r18_efpnbs_rfla",
    "sarl": "quick/faster_rcnn_r18_sarl_rfla",
    "fcos": "quick/fcos_r18_p2_rfla",
    "retinanet": "quick/retinanet_r18_fpn_rfla",
    "yolox": "quick/yolox_s_sarl_sal",
    "yolov5": "quick/yolov5_s",
    "yolo11": "quick/yolo11_n",
    "rs_tinynet": "quick/rs_tinynet_n",
    "dino": "quick/dino_r18",
    "scalebridge": "quick/scalebridge_r18",
    "sparse": "quick/dino_lite0_dgq_sparse",
}


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """A folder of drawn scenes, also of sides that no stride divides."""
    folder = tmp_path_factory.mktemp("images")
    for number, image in enumerate(checks.drawn_images(SIZES)):
        cv2.imwrite(str(folder / f"{number}.png"), image)
    return folder


@pytest.fixture(autouse=True)
def _chaotic(monkeypatch):
    """Random networks have scores that are equal to seven digits: more detections come and go by rounding."""
    monkeypatch.setattr(checks, "CHANGED_LIMIT", 0.05)


def _cfg(family, folder):
    """Return the config of a family with a checkpoint of a random model that finds something."""
    torch.manual_seed(0)
    name = FAMILIES[family]
    model = instantiate(config(name).model)
    calibrate(model, checks.drawn_images(((384, 416),))[0])
    write_checkpoint(folder / "model.pth", model.state_dict())
    return model_zoo.get_cfg(name, folder / "model.pth", device="cpu"), name


def _find(detector):
    return lambda image: ArrayDetections.of(detector.detect([np.ascontiguousarray(image[:, :, ::-1])], None)[0])


@pytest.mark.parametrize("family", FAMILIES)
def test_torchscript(family, images, tmp_path):
    cfg, name = _cfg(family, tmp_path)
    result = export_model(cfg, name, tmp_path / "out", ExportSettings(format="torchscript", verify=images))
    difference = result.verification.difference
    assert result.verification.exact and difference.detections > 30
    assert [file.name for file in (tmp_path / "out").iterdir()] == ["model.ts"]


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_onnx_by_both_runtimes(family, images, tmp_path):
    cfg, name = _cfg(family, tmp_path)
    result = export_model(cfg, name, tmp_path / "out", ExportSettings(verify=images))  # ONNX Runtime
    assert result.verification.exact and result.verification.difference.detections > 30
    exported = ExportedDetector(result.path, backend="openvino")
    again = checks.verify(_find(TorchDetector(cfg)), _find(exported), checks.drawn_images(SIZES))
    assert again.exact and again.difference.detections == result.verification.difference.detections
    # Two images at once are as each alone.
    pair = [image[:, :, ::-1] for image in checks.drawn_images(((64, 96), (64, 96)))]
    assert exported.model.metadata.batch
    for found, image in zip(exported.detect(pair, None), pair, strict=True):
        (alone,) = exported.detect([image], None)
        changed = checks.compare(ArrayDetections.of(alone), ArrayDetections.of(found)).changed
        assert changed <= 0.05 * max(len(alone.scores), 1)
