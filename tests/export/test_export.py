"""Exported detectors of every family find what the models find, in images of any size."""

from __future__ import annotations

import json
import os

import cv2
import numpy as np
import pytest
import torch
from detectron2.config import instantiate
from detectron2.modeling import build_model

from d2tiny import model_zoo
from d2tiny.cli import main
from d2tiny.data.datasets.categories import AITOD_CLASSES
from d2tiny.engine.checkpoint import write_checkpoint
from d2tiny.export import ExportSettings, export_model
from d2tiny.export import comparison as checks
from d2tiny.inference.detector import ExportedDetector
from d2tiny.inference.torch_detector import TorchDetector
from d2tiny.runtime import ArrayDetections, ExportedModel
from d2tiny.utils.download import sha256_of
from d2tiny.utils.errors import CheckpointError, ConfigError
from tests.helpers import ROOT
from tests.helpers.docs import blocks
from tests.helpers.exported import write_onnx
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
# A layer of an encoder costs 15 processor seconds to record, and a second one has nothing new.
CHANGES = {"dino": ["model.encoder.num_layers=1", "model.decoder.num_layers=2"]}


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
    monkeypatch.setattr(checks, "CHANGED_LIMIT", 0.1)


def _cfg(family, folder):
    """Return the config of a family with a checkpoint of a random model that finds something."""
    torch.manual_seed(0)
    name, changes = FAMILIES[family], CHANGES.get(family, [])
    model = instantiate(config(name, changes).model)
    calibrate(model, checks.drawn_images(((384, 416),))[0])
    write_checkpoint(folder / "model.pth", model.state_dict())
    return model_zoo.get_cfg(name, folder / "model.pth", changes, device="cpu"), name


def _find(detector):
    return lambda image: ArrayDetections.of(detector.detect([np.ascontiguousarray(image[:, :, ::-1])], None)[0])


@pytest.mark.parametrize("family", FAMILIES)
def test_torchscript(family, images, tmp_path):
    cfg, name = _cfg(family, tmp_path)
    result = export_model(cfg, name, tmp_path / "out", ExportSettings(format="torchscript", verify=images))
    difference = result.verification.difference
    assert result.verification.exact and difference.detections > 30
    assert [file.name for file in (tmp_path / "out").iterdir()] == ["model.ts"]


# Recording a graph takes 10 to 40 processor seconds: one of each kind of head, and all for `make export`.
ONNX = (
    FAMILIES
    if os.environ.get("D2TINY_EXPORT")
    else ("faster_rcnn", "cascade_rcnn", "fcos", "yolov5", "rs_tinynet", "dino")
)


@pytest.mark.slow
@pytest.mark.parametrize("family", ONNX)
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


def test_models_of_native_yaml(images, tmp_path):
    name = "yaml/faster_rcnn_lite0_efpnbs_rfla.yaml"
    torch.manual_seed(0)
    model = build_model(model_zoo.get_cfg(name, "", device="cpu"))
    calibrate(model, checks.drawn_images(((384, 416),))[0])
    write_checkpoint(tmp_path / "model.pth", model.state_dict())
    cfg = model_zoo.get_cfg(name, tmp_path / "model.pth", device="cpu")
    result = export_model(cfg, name, tmp_path / "out", ExportSettings(format="torchscript", verify=images))
    assert result.verification.exact and result.verification.difference.detections > 30


def test_a_file_says_what_it_is(images, tmp_path):
    cfg, name = _cfg("faster_rcnn", tmp_path)
    export_model(cfg, name, tmp_path / "out", ExportSettings(format="torchscript", verify=images, channels="RGB"))
    extra = {"d2tiny": ""}
    torch.jit.load(tmp_path / "out" / "model.ts", _extra_files=extra)
    about = json.loads(extra["d2tiny"])
    assert about["config"] == name and about["family"] == "faster_rcnn" and about["channels"] == "RGB"
    assert len(about["classes"]) == 8 and about["weights_sha256"] == sha256_of(tmp_path / "model.pth")


@pytest.mark.slow
def test_int8_is_smaller_and_its_loss_is_measured(images, tmp_path):
    cfg, name = _cfg("faster_rcnn" if os.environ.get("D2TINY_EXPORT") else "yolov5", tmp_path)  # 70 s less
    truth = _annotations(images, tmp_path / "truth.json")
    settings = ExportSettings(
        format="openvino", precision="int8", calibration=images, verify=images, annotations=truth, max_drop=100
    )
    result = export_model(cfg, name, tmp_path / "out", settings)
    model = ExportedModel(tmp_path / "out")
    assert model.metadata.precision == "int8" and model.backend == "openvino"
    assert result.ap is not None and result.bytes < 0.5 * (tmp_path / "model.pth").stat().st_size


def _annotations(images, path):
    """Write COCO json in which each image has one object of each of the eight classes of AI-TOD."""
    files = sorted(images.iterdir())
    entries = [
        {"id": 9 * i + k, "image_id": i, "category_id": k + 1, "bbox": [5 * k, 8, 10, 10], "area": 100, "iscrowd": 0}
        for i in range(len(files))
        for k in range(8)
    ]
    shapes = [cv2.imread(str(file)).shape for file in files]
    pictures = [
        {"id": i, "file_name": file.name, "height": shape[0], "width": shape[1]}
        for i, (file, shape) in enumerate(zip(files, shapes, strict=True))
    ]
    categories = [{"id": k + 1, "name": name} for k, name in enumerate(AITOD_CLASSES)]
    path.write_text(json.dumps({"images": pictures, "annotations": entries, "categories": categories}))
    return path


@pytest.mark.parametrize(
    "wrong, told",
    [
        ({"format": "tflite"}, "onnx, openvino, torchscript"),
        ({"precision": "fp16"}, "fp32, bf16 or int8"),
        ({"precision": "bf16"}, "--format openvino"),
        ({"precision": "int8"}, "--calibration"),
        ({"calibration": "here"}, "go together"),
        ({"precision": "int8", "format": "torchscript", "calibration": "here"}, "onnx or openvino"),
        ({"annotations": "truth.json"}, "--verify"),
        ({"max_drop": -1}, "at least 0"),
    ],
)
def test_settings_that_do_not_go_together_are_refused(wrong, told):
    with pytest.raises(ConfigError, match=told):
        ExportSettings(**wrong)


def test_what_cannot_be_exported_is_told_and_leaves_nothing(images, tmp_path, monkeypatch):
    cfg, name = _cfg("faster_rcnn", tmp_path)
    settings = ExportSettings(format="torchscript", verify=images)
    used = tmp_path / "used"
    used.mkdir()
    (used / "mine").write_text("x")
    with pytest.raises(ConfigError, match="there are files already"):
        export_model(cfg, name, used, settings)
    with pytest.raises(ConfigError, match="no such folder"):
        export_model(cfg, name, tmp_path / "a", ExportSettings(format="torchscript", verify=tmp_path / "none"))
    without = cfg.clone()
    without.MODEL.WEIGHTS = ""
    with pytest.raises(ConfigError, match="--weights"):
        export_model(without, name, tmp_path / "b", settings)
    nwd = model_zoo.get_cfg(name, tmp_path / "model.pth", ["model.proposal_generator.nms_metric=nwd"], device="cpu")
    with pytest.raises(ConfigError, match="NMS by NWD"):
        export_model(nwd, name, tmp_path / "c", settings)
    monkeypatch.setattr(checks, "CHANGED_LIMIT", -1.0)  # nothing is alike enough
    with pytest.raises(CheckpointError, match="finds other objects"):
        export_model(cfg, name, tmp_path / "d", settings)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model.pth", "used"]


def test_weights_of_another_config_are_refused(tmp_path):
    cfg, _ = _cfg("faster_rcnn", tmp_path)
    other = model_zoo.get_cfg("quick/fcos_r18_p2_rfla", cfg.MODEL.WEIGHTS, device="cpu")
    with pytest.raises(CheckpointError, match="of another config"):
        export_model(other, "quick/fcos_r18_p2_rfla", tmp_path / "out", ExportSettings(format="torchscript"))
    assert not (tmp_path / "out").exists()


def test_the_command_exports_and_says_how_it_differs(images, tmp_path, capsys):
    cfg, name = _cfg("faster_rcnn", tmp_path)
    words = ["--config", name, "--weights", cfg.MODEL.WEIGHTS, "--format", "torchscript", "--verify", str(images)]
    assert main(["export", *words, "--output", str(tmp_path / "out")]) == 0
    told = capsys.readouterr().out
    assert "model.ts" in told and "3 images" in told and "boxes differ by at most" in told
    assert main(["export", *words, "--output", str(tmp_path / "out")]) == 2
    assert "there are files already" in capsys.readouterr().err
    assert main(["export", "--output", str(tmp_path / "other")]) == 2
    assert "--weights" in capsys.readouterr().err


def test_code_of_the_page_of_deployment(tmp_path, monkeypatch, capsys):
    (tmp_path / "model").mkdir()
    write_onnx(tmp_path / "model" / "model.onnx")
    monkeypatch.chdir(tmp_path)
    (code,) = blocks("python", (ROOT / "docs" / "deploy.md").read_text())
    exec(compile(code, "docs/deploy.md", "exec"), {})
    assert len(capsys.readouterr().out.splitlines()) >= 2
