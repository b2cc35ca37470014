"""Without numba, Python merges tiles and removes doubles, to the same bits; with it, compiling is announced."""

from __future__ import annotations

import importlib.util
import subprocess
import sys

import numpy as np
import pytest

from d2tiny.inference import merge, merge_kernels
from d2tiny.inference.merge import MergeSettings, SeamMerger, Views
from d2tiny.inference.tiles import TileGrid
from d2tiny.ops import grid_nms
from d2tiny.utils import compiled


def crowded(count, seed=0):
    """Boxes (N, 4) of 4 to 40 px, scores and classes."""
    rng = np.random.default_rng(seed)
    centre, side = rng.uniform(0, 300, (count, 2)), rng.uniform(4, 40, (count, 2))
    boxes = np.concatenate((centre - side / 2, centre + side / 2), axis=1)
    return boxes, rng.uniform(0.3, 1, count).astype(np.float32), rng.integers(0, 3, count)


@pytest.fixture
def python_kernels(monkeypatch):
    """The loops of merging as Python runs them."""
    spec = importlib.util.spec_from_file_location("python_compiled", compiled.__file__)
    plain = importlib.util.module_from_spec(spec)
    with monkeypatch.context() as missing:  # numba itself imports numba when it compiles
        missing.setitem(sys.modules, "numba", None)
        spec.loader.exec_module(plain)
    assert not plain.COMPILED
    with pytest.raises(ModuleNotFoundError, match="numba"):
        plain.njit(cache=True)
    monkeypatch.setattr(compiled, "njit_or_python", plain.njit_or_python)
    spec = importlib.util.spec_from_file_location("python_kernels", merge_kernels.__file__)
    kernels = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(kernels)
    return kernels


def merged(overlap):
    grid = TileGrid(300, 300, 128, overlap)
    boxes, scores, classes = crowded(150)
    rng, merger, parts = np.random.default_rng(1), SeamMerger(grid, MergeSettings(nms=0.4)), [Views.empty()]
    for tile in range(len(grid)):
        x0, y0, x1, y1 = grid.window(tile)
        seen = boxes.clip((x0, y0, x0, y0), (x1, y1, x1, y1)) + rng.normal(0, 0.3, boxes.shape)
        kept = (seen[:, 2:] - seen[:, :2] > 2).all(axis=1)
        parts += merger.add(tile, (seen - (x0, y0, x0, y0))[kept].astype(np.float32), scores[kept], classes[kept])
    return Views.joined(parts)


@pytest.mark.parametrize("overlap", [32, 64])
def test_merging(overlap, python_kernels, monkeypatch):
    want = merged(overlap)
    names = ("cut_sides", "group_views", "hold_open", "inside_other", "represent")
    for name in names:
        assert not hasattr(getattr(python_kernels, name), "py_func")
        monkeypatch.setattr(merge, name, getattr(python_kernels, name))
    monkeypatch.setattr(grid_nms, "COMPILED", False)
    got = merged(overlap)
    assert 100 < len(want.scores) < 150 * 9
    for one, other in zip(got, want, strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("threshold", [0.15, 0.3, 0.5, 0.9, 1.0])
def test_nms(threshold, monkeypatch):
    """Also with boxes without area, not finite, and of the same score."""
    boxes, scores, classes = crowded(400, 3)
    boxes = boxes.round().astype(np.float32)
    boxes[:20] = boxes[20:40]
    boxes[40, 2], boxes[41, 3], boxes[42, 0], boxes[43, 2] = boxes[40, 0], boxes[41, 1] - 1, np.nan, np.inf
    boxes[44:46] = (0, 0, 2e9, 2e9)
    scores = scores.round(1)
    want = grid_nms.grid_nms(boxes, scores, classes, threshold)
    monkeypatch.setattr(grid_nms, "COMPILED", False)
    np.testing.assert_array_equal(grid_nms.grid_nms(boxes, scores, classes, threshold), want)
    assert (len(want) < 400) == (threshold < 1)
    assert len(grid_nms.grid_nms(boxes[:0], scores[:0], classes[:0], threshold)) == 0


def test_compiling_is_announced_once_and_not_when_kept(tmp_path):
    (tmp_path / "loops.py").write_text(
        "from d2tiny.utils.compiled import COMPILING, njit\n"
        "from d2tiny.utils.logs import messages_shown\n"
        "one = njit(cache=True)(lambda x: x + 1)\n"
        "two = njit(cache=True)(lambda x: x + 2)\n"
        "with messages_shown(COMPILING):\n"
        "    assert one(1) + two(1) == 5\n"
    )
    command = [sys.executable, tmp_path / "loops.py"]
    told = [subprocess.run(command, capture_output=True, text=True, check=True).stderr for _ in range(2)]
    assert told[0].startswith("Compiling loops") and told[0].count("\n") == 1
    assert told[1] == ""
