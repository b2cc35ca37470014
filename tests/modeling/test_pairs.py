"""Every assigner with every loss, in RPN and box head: five steps on normal, empty, half-empty and crowded batches."""

from __future__ import annotations

import itertools

import pytest
import torch
from detectron2.config import instantiate
from detectron2.modeling.matcher import Matcher
from detectron2.utils.events import EventStorage

from d2tiny.config import validate_config
from d2tiny.modeling.roi_heads.matching import match_proposals
from tests.helpers.images import item
from tests.helpers.models import ASSIGNERS, LOSSES, config, narrow, overrides

ASSIGNER, RPN, ROI = (
    "model.proposal_generator.assigner",
    "model.proposal_generator.box_loss",
    "model.roi_heads.box_predictor.box_loss",
)


def crowd(count):
    generator = torch.Generator().manual_seed(0)
    corner = torch.rand(count, 2, generator=generator) * torch.tensor([86.0, 54.0])
    return torch.cat((corner, corner + 2 + torch.rand(count, 2, generator=generator) * 8), 1).tolist()


def batches():
    full = item(crowd(2000))
    normal = item([[10, 10, 18, 17], [30, 40, 36, 47]], ignore=[False, True])
    return [[normal, item([[50, 20, 61, 33]])], [normal, item([])], [item([]), item([])], [full, normal], [full, full]]


PAIRS = [
    pytest.param(assigner, loss, marks=() if assigner == "hla" or loss == "l1" else pytest.mark.slow)
    for assigner, loss in itertools.product(ASSIGNERS, LOSSES)
]


@pytest.mark.parametrize(("assigner", "loss"), PAIRS)
def test_five_steps(assigner, loss):
    """Each pair is one line of config for the assigner and one for each loss.

    Each loss and each assigner is tried in bfloat16, but not every pair: processors without it need six times as long.
    """
    changes = overrides(ASSIGNER, ASSIGNERS[assigner])
    changes += overrides(RPN, LOSSES[loss]) + overrides(ROI, LOSSES[loss])
    cfg = config("quick/faster_rcnn_r18_fpn_rfla", changes)
    validate_config(cfg, datasets=False)
    torch.manual_seed(0)
    model = instantiate(narrow(cfg).model).train()
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    half = list(LOSSES).index(loss) % len(ASSIGNERS) == list(ASSIGNERS).index(assigner)
    for batch in batches():
        with EventStorage(0), torch.autocast("cpu", dtype=torch.bfloat16, enabled=half):
            losses = model(batch)
        total = sum(losses.values())
        assert torch.isfinite(total), losses
        optimizer.zero_grad()
        total.backward()
        assert not [n for n, p in model.named_parameters() if p.requires_grad and p.grad is None]
        assert all(torch.isfinite(p.grad.sum()) for p in model.parameters() if p.grad is not None)  # NaN and ∞ stay
        optimizer.step()


def test_nwd_nms_and_roi_matching_by_one_line_each():
    cfg = config(
        "quick/faster_rcnn_r18_fpn_rfla",
        [
            "model.proposal_generator.nms_metric=nwd",
            "model.proposal_generator.nms_thresh=0.85",
            "model.roi_heads.match_nwd=12.8",
        ],
    )
    validate_config(cfg, datasets=False)
    model = instantiate(narrow(cfg).model)
    with EventStorage(0):
        losses = model.train()(batches()[0])
    assert torch.isfinite(sum(losses.values()))
    box = torch.tensor([[0.0, 0, 6, 6]])
    for threshold, label in ((0.89539, 1), (0.89541, 0)):  # NWD is 0.895399
        matcher = Matcher([threshold], [0, 1])
        assert match_proposals(matcher, box, box + 1, model.roi_heads.match_nwd)[1].tolist() == [label]
