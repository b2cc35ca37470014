"""The processor's RoIAlign against torchvision's."""

from __future__ import annotations

import pytest
import torch
from torchvision.ops import roi_align as reference

from d2tiny.ops.roi_align import roi_align


def on_one_level(x, rois, size, scale, sampling=0):
    return roi_align([x], rois, torch.zeros(len(rois), dtype=torch.int64), size, [scale], sampling)


def boxes(count, size, spread, images):
    """Boxes around the image, some outside of it, some of no size."""
    generator = torch.Generator().manual_seed(count)
    centre = torch.rand(count, 2, generator=generator) * 1.4 * size - 0.2 * size
    half = spread * torch.exp(torch.randn(count, 2, generator=generator)) / 2
    half[::7] = 0
    index = torch.randint(0, images, (count, 1), generator=generator).float()
    return torch.cat((index, centre - half, centre + half), dim=1)


@pytest.mark.parametrize("sampling", [0, 1, 2])
@pytest.mark.parametrize("bins", [(7, 7), (1, 1), (2, 5)])
@pytest.mark.parametrize(("height", "width", "spread"), [(20, 31, 12), (1, 1, 4), (9, 2, 60), (40, 40, 3)])
def test_values_and_gradients(height, width, spread, bins, sampling):
    torch.manual_seed(0)
    x = torch.randn(3, 37, height, width)
    rois = boxes(60, 4 * max(height, width), spread, 3)
    results = []
    for function in (on_one_level, lambda *a: reference(*a, aligned=True)):
        leaf = x.clone().requires_grad_()
        out = function(leaf, rois, bins, 0.25, sampling)
        (out * torch.linspace(-1, 1, out.numel()).view_as(out)).sum().backward()
        results.append((out, leaf.grad))
    (ours, our_grad), (theirs, their_grad) = results
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)
    # On one pixel the gradient is a sum of a thousand terms that cancel.
    torch.testing.assert_close(our_grad, their_grad, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("channels", [1, 16, 50])
def test_threads_and_memory_format_change_nothing(channels):
    x = torch.randn(2, channels, 12, 12)
    rois = boxes(30, 48, 10, 2)
    before = torch.get_num_threads()
    outs, grads = [], []
    try:
        for threads, form in ((1, torch.contiguous_format), (3, torch.channels_last)):
            torch.set_num_threads(threads)
            leaf = x.contiguous(memory_format=form).requires_grad_()
            outs.append(on_one_level(leaf, rois, (3, 3), 0.25))
            grads.append(torch.autograd.grad(outs[-1].square().sum(), leaf)[0])
    finally:
        torch.set_num_threads(before)
    assert torch.equal(*outs)
    assert torch.equal(*grads)


def test_hand_calculated():
    # A ramp along x is read at its own coordinate: pixel centres lie at half steps.
    x = torch.arange(8.0).view(1, 1, 1, 8).expand(1, 1, 8, 8).contiguous()
    out = on_one_level(x, torch.tensor([[0.0, 2.0, 2.0, 6.0, 6.0]]), (1, 2), 1.0)
    torch.testing.assert_close(out, torch.tensor([[[[2.5, 4.5]]]]))


def test_boxes_the_wrong_way_round_are_empty():
    # torchvision fails on them.
    x = torch.ones(1, 2, 8, 8)
    rois = torch.tensor([[0.0, 6, 2, 2, 6], [0, 6, 6, 2, 2], [0, 2, 2, 6, 6]])
    assert on_one_level(x, rois, (2, 2), 1.0).mean(dim=(1, 2, 3)).tolist() == [0, 0, 1]


def test_no_boxes_and_boxes_of_nan():
    x = torch.randn(1, 2, 4, 4, requires_grad=True)
    out = on_one_level(x, torch.zeros(0, 5), (7, 7), 1.0)
    assert out.shape == (0, 2, 7, 7)
    out.sum().backward()
    assert not x.grad.any()
    out = on_one_level(x, torch.tensor([[0.0, 0, 0, float("nan"), 3], [0, 0, 0, 2, 2]]), (2, 2), 1.0)
    assert out[0].isnan().all()
    assert out[1].isfinite().all()
    far = torch.tensor([[0.0, -1e6, 0, 1e6, 3], [0, 0, 0, 1e9, 2], [0, 3e38, 0, 3.1e38, 1], [0, 0, 0, float("inf"), 2]])
    out = on_one_level(x, far, (2, 2), 1.0)
    assert out.isnan().flatten(1).all(dim=1).tolist() == [False, True, True, True]


def test_boxes_may_change_before_the_backward_pass():
    grads = []
    for move in (0, 5):
        x, rois = torch.zeros(1, 1, 12, 12, requires_grad=True), torch.tensor([[0.0, 1, 1, 4, 4]])
        out = on_one_level(x, rois, (2, 2), 1.0)
        rois[:, 1:] += move
        grads.append(torch.autograd.grad(out.sum(), x)[0])
    assert torch.equal(*grads)


@pytest.mark.parametrize(
    ("maps", "rois", "levels", "text"),
    [
        ([torch.zeros(1, 2, 4, 4).double()], torch.zeros(1, 5), torch.zeros(1), "float64"),
        ([torch.zeros(1, 2, 4, 4)], torch.zeros(1, 4), torch.zeros(1), r"\(1, 4\)"),
        ([torch.zeros(1, 2, 4, 4)], torch.tensor([[1.0, 0, 0, 2, 2]]), torch.zeros(1), r"images \[1.0\] of 1"),
        ([torch.zeros(1, 2, 4, 4)], torch.zeros(1, 5), torch.ones(1), r"levels \[1.0\] of 1"),
        ([torch.zeros(1, 2, 4, 4)], torch.zeros(1, 5), torch.zeros(2), "must fit"),
        ([torch.zeros(1, 2, 0, 4)], torch.zeros(1, 5), torch.zeros(1), "without pixels"),
        ([torch.zeros(1, 2, 4, 4), torch.zeros(1, 3, 2, 2)], torch.zeros(1, 5), torch.zeros(1), "must fit"),
    ],
)
def test_refuses(maps, rois, levels, text):
    with pytest.raises(ValueError, match=text):
        roi_align(maps, rois, levels, (7, 7), [1.0])
