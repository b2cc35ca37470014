"""The registry boundary: every assigner and box loss by yacs keys."""

from __future__ import annotations

import pytest
from detectron2.config import get_cfg

from d2tiny import add_d2tiny_config
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
