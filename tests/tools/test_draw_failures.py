"""The sheet of images on which published weights fail."""

from __future__ import annotations

import runpy

import numpy as np
import pytest

from tests.helpers import ROOT

TOOL = runpy.run_path(str(ROOT / "tools" / "draw_failures.py"))


@pytest.mark.parametrize(
    ("heights", "size"), [((50, 80, 60, 40), (120, 300)), ((50, 70), (70, 200)), ((9,) * 3, (9, 300))]
)
def test_images_of_different_heights_share_a_sheet(heights, size):
    """Rows of three, filled with white."""
    sheet = TOOL["_in_rows"]([np.zeros((height, 100, 3), np.uint8) for height in heights])
    assert sheet.shape == (*size, 3)
    assert (sheet == 0).sum() == sum(heights) * 300
    assert set(np.unique(sheet)) <= {0, 255}


def test_one_image_of_each_series_is_shown():
    names = ["port_1.jpg", "port_2.jpg", "road_7.jpg", "beach.jpg"]
    assert TOOL["_far_apart"](np.array([1, 0, 3, 2]), names, 9) == [1, 3, 2]
