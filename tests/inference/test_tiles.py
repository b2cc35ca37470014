"""Where tiles lie."""

from __future__ import annotations

import numpy as np
import pytest

from d2tiny.inference.tiles import STRIDE, TileGrid
from d2tiny.utils.errors import ConfigError


def random_grids(count, seed=0):
    rng = np.random.default_rng(seed)
    for _ in range(count):
        tile = int(rng.integers(2, 33)) * STRIDE
        width, height = (int(v) for v in np.exp(rng.uniform(0, np.log(6000), 2)))
        yield TileGrid(max(width, 1), max(height, 1), tile, int(rng.integers(0, tile // 2 + 1)))


def test_tiles_cover_the_scene_start_at_cells_and_overlap_enough():
    for grid in random_grids(400):
        for length, spans in ((grid.width, grid.columns), (grid.height, grid.rows)):
            starts, ends = np.array(spans).T
            assert starts[0] == 0 and ends[-1] == length
            assert not (starts % STRIDE).any()
            assert (ends - starts <= grid.tile).all()
            assert len(spans) == 1 or length > grid.tile
            if len(spans) > 1:
                # Only the last one may be smaller, by less than a cell.
                assert (ends[:-1] - starts[:-1] == grid.tile).all() and ends[-1] - starts[-1] > grid.tile - STRIDE
                assert (np.diff(starts) > 0).all()
                assert (ends[:-1] - starts[1:] >= grid.overlap).all()
                # None that could be left out: no tile starts before the end of the last but one.
                assert (starts[2:] >= ends[:-2] - 2 * grid.overlap - STRIDE).all() or grid.overlap > grid.tile // 3


def test_tiles_are_counted_row_by_row():
    grid = TileGrid(224, 300, 128, 32)
    assert (grid.columns, grid.rows) == ([(0, 128), (96, 224)], [(0, 128), (96, 224), (192, 300)])
    assert len(grid) == 6 and grid.window(3) == (96, 96, 224, 224)
    np.testing.assert_array_equal(grid.windows, [grid.window(i) for i in range(6)])


@pytest.mark.parametrize("batch", [1, 2, 3, 100])
def test_units_have_each_tile_once_and_stay_in_a_row(batch):
    for grid in random_grids(30, seed=1):
        units = grid.units(batch)
        assert [tile for unit in units for tile in unit] == list(range(len(grid)))
        assert all(1 <= len(unit) <= batch for unit in units)
        assert all(unit[0] // len(grid.columns) == unit[-1] // len(grid.columns) for unit in units)


@pytest.mark.parametrize("wrong", [(0, 9, 64, 0), (9, 9, 32, 0), (9, 9, 100, 0), (9, 9, 64, 33), (9, 9, 64, -1)])
def test_wrong_sizes(wrong):
    with pytest.raises(ConfigError, match=r"needs pixels|multiple of 32|half of their side"):
        TileGrid(*wrong)


def test_a_wrong_side_is_told_with_right_ones():
    with pytest.raises(ConfigError, match=r"multiple of 32, got 400: take 384 or 416\.$"):
        TileGrid(900, 900, 400, 0)
