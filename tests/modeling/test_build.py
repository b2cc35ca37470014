"""The registry boundary: every assigner and box loss by yacs keys."""

from __future__ import annotations

import pytest
from detectron2.config import get_cfg
from detectron2.modeling import build_backbone

from d2tiny import add_d2tiny_config
from d2tiny.modeling.backbone import TimmBackbone
from d2tiny.modeling.build import build_box_loss, build_rpn_assigner
from d2tiny.utils.errors import ConfigError


def cfg(*pairs):
    result = get_cfg()
    add_d2tiny_config(result)
    result.merge_from_list(list(pairs))
    return result


@pytest.mark.parametrize(
    ("pairs", "expected"),
    [
        ((), "HLAAssigner(ignore_iof_thresh=0.5, metric='kld', topk=(3, 1), ratio=0.9, tie='value')"),
        (("MODEL.RPN.ASSIGNER", "RKAAssigner", "MODEL.NWD.RKA_TOPK", 3), "topk=3"),
        (("MODEL.RPN.ASSIGNER", "ATSSAssigner"), "topk=9"),
        (("MODEL.RPN.ASSIGNER", "MaxIoUAssigner"), "metric='iou', constant=None, min_quality=0.0"),
        (
            ("MODEL.RPN.ASSIGNER", "MaxIoUAssigner", "MODEL.RPN.ASSIGN_METRIC", "nwd", "MODEL.NWD.CONSTANT", 12.7),
            "metric='nwd', constant=12.7, min_quality=0.3",
        ),
    ],
)
def test_assigners(pairs, expected):
    assert expected in repr(build_rpn_assigner(cfg(*pairs)))


@pytest.mark.parametrize("kind", ["smooth_l1", "iou", "iou2", "giou", "diou", "ciou", "dcloss", "sal", "nwd"])
def test_losses(kind):
    loss = build_box_loss(cfg("MODEL.NWD.CONSTANT", 9.0, "MODEL.SAL.BASE", "ciou"), kind, 0.1, "KEY")
    assert getattr(loss, "kind", kind) == kind
    assert kind != "nwd" or loss.constant == 9.0
    assert kind != "sal" or loss.base == "ciou"


def test_unknown_names_say_what_was_meant():
    with pytest.raises(ConfigError, match=r"KEY: unknown box loss 'giuo'. Did you mean 'giou'"):
        build_box_loss(cfg(), "giuo", 0.0, "KEY")
    with pytest.raises(ConfigError, match="Did you mean 'RKAAssigner'"):
        build_rpn_assigner(cfg("MODEL.RPN.ASSIGNER", "RKAssigner"))


@pytest.mark.parametrize("kind", ["timm", "timm_fpn", "timm_efpnbs"])
def test_backbones_of_timm(kind):
    """Stages, frozen ones, norms and drop paths as the keys say; the pyramid takes the stages it names."""
    keys = ["MODEL.TIMM.NAME", "resnet10t", "MODEL.BACKBONE.FREEZE_AT", 2, "MODEL.TIMM.NORM", "BN"]
    more = ["MODEL.TIMM.DROP_PATH_RATE", 0.25, "MODEL.BACKBONE.NAME", f"build_{kind}_backbone"]
    levels = ["MODEL.FPN.IN_FEATURES", ["res2", "res3", "res4", "res5"], "MODEL.FPN.OUT_CHANNELS", 16]
    backbone = build_backbone(cfg(*keys, *more, *levels))
    body = next(module for module in backbone.modules() if isinstance(module, TimmBackbone))
    assert list(backbone.output_shape()) == (
        ["res2", "res3", "res4", "res5"] if kind == "timm" else ["p2", "p3", "p4", "p5", "p6"]
    )
    trained = {name.split(".")[1] for name, p in body.named_parameters() if p.requires_grad}
    assert trained == {"layer2", "layer3", "layer4"}
    assert "body.layer2.0.bn1.num_batches_tracked" in body.state_dict()
    assert max(getattr(module, "drop_prob", 0) or 0 for module in body.modules()) == 0.25
    fewer = build_backbone(
        cfg(*keys, "MODEL.BACKBONE.NAME", "build_timm_backbone", "MODEL.TIMM.OUT_FEATURES", ["res3"])
    )
    assert list(fewer.output_shape()) == ["res3"]
    with pytest.raises(ConfigError, match="timm has no 'resnet51'"):
        build_backbone(cfg("MODEL.BACKBONE.NAME", f"build_{kind}_backbone", "MODEL.TIMM.NAME", "resnet51", *levels))
