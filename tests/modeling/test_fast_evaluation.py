"""Every family folds its batch norms in evaluation and detects what it detected without."""

from __future__ import annotations

import copy

import pytest
import torch
from detectron2.modeling import build_model
from torch import nn

from d2tiny import model_zoo
from d2tiny.layers.folding import InferenceConv, is_foldable
from d2tiny.layers.sac import SAConv2d
from tests.helpers.models import NARROW_YAML, predict, settle, small

FAMILIES = (
    "faster_rcnn_r18_efpnbs_rfla_dcloss",
    "faster_rcnn_r18_sarl_rfla",
    "cascade_rcnn_r18_fpn_rfla",
    "detectors_r18_rfp_rfla",
    "faster_rcnn_lite0_fpn_rfla",
    "fcos_r18_p2_rfla",
    "retinanet_r18_fpn_rfla",
    "yolox_s_sarl",
    "yolov5_s",
    "yolo11_n",
    "rs_tinynet_n",
    "dino_r18",
    "dino_lite0",
    "scalebridge_r18",
)


def unfolded(model):
    """Names of batch norms that evaluation computes by themselves; those behind SAC's contexts are."""
    done = {
        id(part.forward.norm) for part in model.modules() if isinstance(part.__dict__.get("forward"), InferenceConv)
    }
    done |= {id(part.norm) for part in model.modules() if isinstance(part, SAConv2d)}
    return [name for name, part in model.named_modules() if is_foldable(part) and id(part) not in done]


@torch.no_grad()
def features(model, image):
    """The maps of the backbone in double precision, in which folding must not be seen."""
    backbone = copy.deepcopy(model.backbone).double().eval()
    return list(backbone(image.double()).values())


def compare(model):
    """Detections with and without the ways of evaluation."""
    settle(model)
    with torch.no_grad():
        for part in model.modules():
            if isinstance(part, nn.BatchNorm2d):
                part.running_mean.normal_(std=0.1)
                part.running_var.uniform_(0.8, 1.2)
    names, image = list(model.state_dict()), torch.randn(1, 3, 96, 64)
    fast, maps = predict(model), features(model, image)
    assert names == list(model.state_dict())
    for part in model.modules():
        part.__dict__.pop("forward", None)
    plain = predict(model)
    for one, other in zip(maps, features(model, image), strict=True):
        torch.testing.assert_close(one, other, atol=1e-9, rtol=1e-9)
    assert len(fast) == len(plain) > 0
    # In single precision; ties and thresholds may fall otherwise by rounding.
    torch.testing.assert_close(fast.scores, plain.scores, atol=5e-3, rtol=1e-2)


@pytest.mark.parametrize("name", FAMILIES)
def test_all_batch_norms_are_folded(name):
    model = small(name)
    assert unfolded(model) == []
    for part in (getattr(model, "head", None), getattr(model, "roi_heads", None)):
        for key in ("score_thresh", "test_score_thresh"):
            for layer in part.modules() if part is not None else ():
                if hasattr(layer, key):
                    setattr(layer, key, 0.0)
    compare(model)


def test_native_yaml_models_too():
    cfg = model_zoo.get_cfg("yaml/faster_rcnn_r50_efpnbs_rfla_dcloss.yaml")
    for entry in (*NARROW_YAML, "MODEL.DEVICE=cpu"):
        cfg.merge_from_list(entry.split("="))
    cfg.MODEL.ROI_HEADS.SCORE_THRESH_TEST = 0.0
    torch.manual_seed(0)
    model = build_model(cfg)
    assert unfolded(model) == []
    compare(model)
