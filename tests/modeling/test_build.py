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


def test_dcloss_of_box_heads_has_settings_of_its_own():
    """They encode with 10, so that the same δ is another size of error there."""
    keys = ("MODEL.DCLOSS.DELTA", 0.2, "MODEL.DCLOSS.ROI_UNIT", 10.0)
    rpn, head = "MODEL.RPN.BBOX_REG_LOSS_TYPE", "MODEL.ROI_BOX_HEAD.BBOX_REG_LOSS_TYPE"
    found = [build_box_loss(cfg(*keys), "dcloss", 0.0, key) for key in (rpn, head)]
    assert [(loss.delta0, loss.unit) for loss in found] == [(0.2, 1.0), (0.2, 10.0)]
    assert build_box_loss(cfg("MODEL.DCLOSS.ROI_DELTA", 0.5), "dcloss", 0.0, head).delta0 == 0.5


@pytest.mark.parametrize("kind", ["timm", "timm_fpn", "timm_efpnbs", "timm_sarl_fpn"])
def test_backbones_of_timm(kind):
    """Stages, frozen ones, norms and drop paths as the keys say; the pyramid takes the stages it names."""
    keys = ["MODEL.TIMM.NAME", "resnet10t", "MODEL.BACKBONE.FREEZE_AT", 2, "MODEL.TIMM.NORM", "BN"]
    more = ["MODEL.TIMM.DROP_PATH_RATE", 0.25, "MODEL.BACKBONE.NAME", f"build_{kind}_backbone"]
    more += ["MODEL.TIMM.OUT_NORM", True]
    levels = ["MODEL.FPN.IN_FEATURES", ["res2", "res3", "res4", "res5"], "MODEL.FPN.OUT_CHANNELS", 16]
    backbone = build_backbone(cfg(*keys, *more, *levels))
    body = next(module for module in backbone.modules() if isinstance(module, TimmBackbone))
    assert list(backbone.output_shape()) == (
        ["res2", "res3", "res4", "res5"] if kind == "timm" else ["p2", "p3", "p4", "p5", "p6"]
    )
    trained = {name.split(".")[1] for name, p in body.named_parameters() if p.requires_grad}
    assert trained == {"layer2", "layer3", "layer4", *body.output_shape()}  # those norms are by stage
    assert "body.layer2.0.bn1.num_batches_tracked" in body.state_dict()
    assert max(getattr(module, "drop_prob", 0) or 0 for module in body.modules()) == 0.25
    fewer = build_backbone(
        cfg(*keys, "MODEL.BACKBONE.NAME", "build_timm_backbone", "MODEL.TIMM.OUT_FEATURES", ["res3"])
    )
    assert list(fewer.output_shape()) == ["res3"]
    with pytest.raises(ConfigError, match="timm has no 'resnet51'"):
        build_backbone(cfg("MODEL.BACKBONE.NAME", f"build_{kind}_backbone", "MODEL.TIMM.NAME", "resnet51", *levels))


def test_pixels_of_other_weights_are_told(caplog):
    """Detectron2's default mean is that of BGR images; nothing else would say why a training goes badly."""
    keys = ["MODEL.TIMM.NAME", "tf_efficientnet_lite0", "MODEL.BACKBONE.NAME", "build_timm_backbone"]
    right = ["MODEL.PIXEL_MEAN", [127.0] * 3, "MODEL.PIXEL_STD", [128.0] * 3, "INPUT.FORMAT", "RGB"]
    build_backbone(cfg(*keys, *right))
    assert not caplog.text
    build_backbone(cfg(*keys))
    assert "MODEL.PIXEL_MEAN is [103.53, 116.28, 123.675]" in caplog.text
    assert "MODEL.PIXEL_STD" in caplog.text and "[128.0, 128.0, 128.0]" in caplog.text
    caplog.clear()
    imagenet = ["MODEL.PIXEL_MEAN", [103.53, 116.28, 123.675], "MODEL.PIXEL_STD", [57.375, 57.12, 58.395]]
    build_backbone(cfg("MODEL.TIMM.NAME", "resnet10t", *keys[2:], *imagenet, "INPUT.FORMAT", "BGR"))
    assert not caplog.text


def test_a_loss_that_nobody_would_ask_for_is_refused():
    keys = ["MODEL.BACKBONE.NAME", "build_resnet_efpnbs_backbone", "MODEL.EFPNBS.MASK_LOSS_WEIGHT", 0.5]
    levels = ["MODEL.FPN.IN_FEATURES", ["res2", "res3", "res4", "res5"]]
    levels += ["MODEL.RESNETS.OUT_FEATURES", ["res2", "res3", "res4", "res5"]]
    for other in ("GeneralizedRCNN", "RetinaNet"):
        with pytest.raises(ConfigError, match=f"{other} never asks .*META_ARCHITECTURE: TinyGeneralizedRCNN"):
            build_backbone(cfg(*keys, *levels, "MODEL.META_ARCHITECTURE", other))
    tiny = ["MODEL.META_ARCHITECTURE", "TinyGeneralizedRCNN", "MODEL.EFPNBS.RESIDUAL", True]
    assert build_backbone(cfg(*keys, *levels, *tiny)).neck.mask_loss_weight == 0.5
