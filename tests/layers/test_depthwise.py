"""Depth-wise convolutions that stay in float32 under autocast on a CPU."""

from __future__ import annotations

import copy
import pickle

import pytest
import timm
import torch
from torch import nn

from d2tiny.layers.depthwise import keep_depthwise_float32


class Plain(nn.Module):
    """Two ordinary convolutions, and a depth-wise one between them that is told what to do."""

    def __init__(self, float32):
        super().__init__()
        self.first, self.middle, self.last = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 16, 3, groups=8), nn.Conv2d(16, 4, 1)
        self.float32 = float32

    def forward(self, x):
        x = self.first(x)
        if not self.float32:
            return self.last(self.middle(x))
        with torch.autocast("cpu", enabled=False):
            x = self.middle(x.float())
        return self.last(x)


def outputs(model, x):
    with torch.autocast("cpu", torch.bfloat16):
        y = model(x)
    y.float().square().mean().backward()
    return y, [p.grad for p in model.parameters()]


def test_only_these_layers_leave_autocast():
    """Output and gradients of the model that is written out; those of plain autocast differ."""
    written, changed, auto = Plain(True), Plain(False), Plain(False)
    for model in (changed, auto):
        model.load_state_dict(written.state_dict())
    assert keep_depthwise_float32(changed) == keep_depthwise_float32(changed) == 1
    assert [type(layer) is nn.Conv2d for layer in changed.children()] == [True, False, True]
    assert list(changed.state_dict()) == list(auto.state_dict())
    x = torch.randn(2, 3, 9, 9)
    (y, grads), (z, others) = outputs(written, x), outputs(changed, x)
    assert torch.equal(y, z)
    assert y.dtype == z.dtype == torch.bfloat16
    assert all(torch.equal(a, b) for a, b in zip(grads, others, strict=True))
    assert not torch.equal(y, outputs(auto, x)[0])


def test_without_autocast_nothing_changes():
    model, other = Plain(False), Plain(False)
    other.load_state_dict(model.state_dict())
    keep_depthwise_float32(other)
    x = torch.randn(2, 3, 9, 9)
    assert torch.equal(model(x), other(x))
    assert other.double()(x.double()).dtype == torch.float64


@pytest.mark.parametrize("make", [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))], ids=["copy", "pickle"])
def test_copies_and_pickles(make):
    """Also of a subclass of Conv2d, as EfficientNet-Lite's, which pads its input."""
    model = nn.Sequential(nn.Conv2d(3, 3, 3, groups=3), timm.layers.Conv2dSame(3, 3, 3, stride=2, groups=3))
    assert keep_depthwise_float32(model) == 2
    other = make(model)
    assert [type(layer) for layer in other] == [type(layer) for layer in model]
    assert keep_depthwise_float32(other) == 2
    x = torch.randn(1, 3, 8, 8)
    assert torch.equal(outputs(model, x)[0], outputs(other, x)[0])
    assert outputs(other, x)[0].dtype == torch.float32
    other[0].weight.data.zero_()
    assert model[0].weight.any()


def test_which_layers_are_depthwise():
    layers = nn.Conv2d(1, 4, 3), nn.Conv2d(4, 8, 3, groups=2), nn.Conv1d(2, 2, 3, groups=2), nn.Linear(2, 2)
    assert keep_depthwise_float32(nn.ModuleList(layers)) == 0
