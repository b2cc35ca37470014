"""The contracts between backbone, neck, head and assigner; mypy checks the same joints in `make lint`."""

from __future__ import annotations

import inspect
from pathlib import Path

import pytest
import torch

from d2tiny.modeling import contracts, dense_heads, necks
from d2tiny.modeling.assigners import Assigner
from d2tiny.modeling.contracts import AssignResult, HeadOutputs
from d2tiny.modeling.priors import GridLevel, GridPriors
from d2tiny.utils.registry import NECK_REGISTRY

ROOT = Path(__file__).resolve().parents[2]
POOLING = (necks.ChannelMapper, necks.EFPNBS, necks.SARL, necks.MDCA)

WRONG_JOINTS = """
from torch import Tensor, nn

from d2tiny.modeling.contracts import Backbone
from d2tiny.modeling.dense_heads import TinyDenseHead, YOLO11Head
from d2tiny.modeling.meta_arch import AuxiliaryBranch, TinyDenseDetector
from d2tiny.modeling.necks import ARB, PAFPN, NeckedBackbone


class ListNeck(PAFPN):
    def forward(self, features: dict[str, Tensor]) -> list[Tensor]:
        return list(features.values())


class ListHead(YOLO11Head):
    def forward(self, features: list[Tensor]) -> list[list[Tensor]]:
        return [features]


def joints(backbone: Backbone, neck: PAFPN, arb: ARB, head: TinyDenseHead, conv: nn.Conv2d) -> None:
    NeckedBackbone(backbone=backbone, neck=neck)
    NeckedBackbone(backbone=conv, neck=neck)
    NeckedBackbone(backbone=backbone, neck=arb)
    TinyDenseDetector(backbone=backbone, head=head, in_features=[], pixel_mean=[], pixel_std=[])
    TinyDenseDetector(backbone=backbone, head=neck, in_features=[], pixel_mean=[], pixel_std=[])
    AuxiliaryBranch(neck=arb, head=head)
    AuxiliaryBranch(neck=neck, head=head)
"""


def test_mypy_refuses_parts_that_do_not_fit(tmp_path):
    """Each wrong line is reported, no right one."""
    api = pytest.importorskip("mypy.api")
    path = tmp_path / "joints.py"
    path.write_text(WRONG_JOINTS)
    report, _, status = api.run([str(path), "--config-file", str(ROOT / "pyproject.toml")])
    reported = {int(line.split(":")[1]) for line in report.splitlines() if ": error:" in line}
    lines = WRONG_JOINTS.splitlines()
    marks = ("-> list[", "backbone=conv", "neck=arb)", "head=neck", "neck=neck, head=head")
    wrong = {i for i, line in enumerate(lines, 1) if any(m in line for m in marks) and "neck=arb, head" not in line}
    assert status == 1 and reported == wrong, report


@pytest.mark.parametrize(
    ("protocol", "part"),
    [
        *((contracts.Neck, part) for _, part in NECK_REGISTRY if part not in (necks.ARB, *POOLING)),
        *((contracts.PoolingNeck, part) for part in POOLING),
        (contracts.AuxiliaryNeck, necks.ARB),
        *((contracts.DenseHead, getattr(dense_heads, name)) for name in dense_heads.__all__),
    ],
)
def test_parts_have_the_methods_of_their_contract(protocol, part):
    for name, method in inspect.getmembers(protocol, inspect.isfunction):
        if not name.startswith("_"):
            expected = [p.name for p in inspect.signature(method).parameters.values()]
            actual = [p.name for p in inspect.signature(getattr(part, name)).parameters.values()]
            assert actual == expected, f"{part.__name__}.{name}"


def test_outputs_by_image_and_over_levels():
    logits, deltas = [torch.randn(2, n, 3) for n in (8, 2)], [torch.randn(2, n, 4) for n in (8, 2)]
    outputs = HeadOutputs(logits, deltas)
    all_logits, all_deltas, quality = outputs.concatenated()
    assert all_logits.shape == (2, 10, 3) and all_deltas.shape == (2, 10, 4) and quality is None
    assert torch.equal(all_logits[:, 8:], logits[1])
    one_logits, one_deltas, quality = outputs.of_image(1, 0)
    assert torch.equal(one_logits, logits[0][1]) and torch.equal(one_deltas, deltas[0][1]) and quality is None
    quality = [torch.randn(2, n, 1) for n in (8, 2)]
    outputs = HeadOutputs(logits, deltas, quality)
    assert torch.equal(outputs.concatenated()[2][:, :8], quality[0])
    assert torch.equal(outputs.of_image(0, 1)[2], quality[1][0])


def test_an_assigner_of_a_user_meets_images_without_objects():
    class Nothing(Assigner):
        def _assign(self, priors, gt_boxes, predictions):
            raise AssertionError("there are no objects")

    priors = GridPriors([GridLevel(4, 2, 2, torch.tensor([[-4.0, -4, 4, 4]]))])
    result = Nothing()(priors, torch.zeros(0, 4))
    expected = AssignResult.all_negative(4, torch.device("cpu"))
    for name in ("matched_idxs", "labels", "quality"):
        assert torch.equal(getattr(result, name), getattr(expected, name))
        assert getattr(result, name).dtype == getattr(expected, name).dtype
