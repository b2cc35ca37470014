"""The benchmark that tells how far SARL's pooled values move from crops to whole images."""

from __future__ import annotations

import pytest

from tests.helpers.benchmarks import value_in_benchmarks

SHIFTS = """sarl_shift.shifts(
    {kind: [sarl_shift.torch.tensor(v) for v in ([4., 0.], [6., 0.])] for kind in ("mean", "attention")},
    {kind: [sarl_shift.torch.tensor(v) for v in ([1., 0.], [3., 0.], [5., 0.])] for kind in ("mean", "attention")},
    [2, 1])"""
WINDOWS = """[part.flatten().tolist() for part in sarl_shift.windows(sarl_shift.torch.arange(8.).view(1, 2, 4), 3)]"""
LOOK = """(lambda model, image: [sarl_shift.look(model, [image, image[:, :, :32]], side) for side in (64, 32)])(
    __import__("detectron2.config").config.instantiate(
        __import__("d2tiny.model_zoo").model_zoo.get_config("quick/faster_rcnn_r18_sarl_rfla").model).eval(),
    255 * sarl_shift.torch.rand(3, 50, 64))"""


@pytest.fixture(scope="module")
def found():
    return value_in_benchmarks("sarl_shift", f"[{SHIFTS}, {WINDOWS}, {LOOK}]".replace("\n", " "))


def test_shifts_in_deviations_of_the_windows(found):
    """By hand: the images move by 2 and 1 from the means of their windows, 1.5 in the mean; windows deviate by 2.

    The second channel never fires, and counts for the attention alone.
    """
    assert found[0] == {"mean": 0.75, "attention": 0.75}


def test_windows_cover_an_image(found):
    """Two rows of four columns in windows of three: the last one ends at the border."""
    assert found[1] == [[0.0, 1.0, 2.0, 4.0, 5.0, 6.0], [1.0, 2.0, 3.0, 5.0, 6.0, 7.0]]


def test_images_that_are_their_only_window_do_not_move(found):
    """γ is 0 before a training; in windows of 32 px the maximum of a level is another one."""
    same, cut = found[2]
    assert list(same) == ["res2", "res3", "res4", "res5"]
    assert all(level[kind] == 0 for level in same.values() for kind in ("mean", "max", "attention"))
    assert all(level["scale"] == 0 for level in same.values())
    assert any(level["max"] > 0 for level in cut.values())
