"""Merging of tiles: by hand, and over random scenes of which a made-up detector knows the truth."""

from __future__ import annotations

import numpy as np
import pytest

from d2tiny.inference.merge import MergeSettings, SeamMerger, Views
from d2tiny.inference.tiles import TileGrid
from d2tiny.utils.errors import ConfigError
from tests.helpers.benchmarks import value_in_benchmarks

# Columns 0-128 and 96-224; with four tiles the rows likewise.
TWO = TileGrid(224, 128, 128, 32)
FOUR = TileGrid(224, 224, 128, 32)


def seen(grid, tile, objects):
    """What a tile sees of objects (x0, y0, x1, y1, class, score) in px of the scene: cut at its edges."""
    x0, y0, x1, y1 = grid.window(tile)
    data = np.array(objects, np.float64).reshape(-1, 6)
    boxes = data[:, :4].clip((x0, y0, x0, y0), (x1, y1, x1, y1))
    there = (boxes[:, 2:] > boxes[:, :2]).all(axis=1)
    return boxes[there] - np.array((x0, y0, x0, y0)), data[there, 5].astype(np.float32), data[there, 4].astype(int)


def merged(grid, by_tile, order=None, settings=None):
    merger = SeamMerger(grid, settings)
    parts = [Views.empty()]
    for tile in order if order is not None else range(len(grid)):
        parts += merger.add(tile, *seen(grid, tile, by_tile[tile]))
    assert merger.complete
    return Views.joined(parts)


def assert_objects(found, *objects):
    """The same boxes, classes and scores, in any order."""
    got = np.column_stack((found.boxes, found.classes, found.scores)).round(6)
    want = np.array(objects, np.float64).reshape(-1, 6)
    want[:, 5] = want[:, 5].astype(np.float32).round(6)
    np.testing.assert_allclose(got[np.lexsort(got.T)], want[np.lexsort(want.T)], atol=1e-5)


def test_the_grid_is_what_these_tests_think():
    assert TWO.columns == [(0, 128), (96, 224)] and TWO.rows == [(0, 128)]
    assert FOUR.rows == FOUR.columns == TWO.columns


@pytest.mark.parametrize(
    ("name", "objects"),
    [
        ("whole in both tiles", [(105, 40, 115, 50, 0, 0.8)]),
        ("whole in one, cut in the other", [(110, 40, 140, 60, 1, 0.8)]),
        ("cut in both: larger than the overlap", [(60, 30, 180, 60, 0, 0.8)]),
        ("two that touch, both in the overlap", [(104, 40, 112, 48, 0, 0.8), (112, 40, 120, 48, 0, 0.8)]),
        ("two that touch at their long sides, both cut", [(60, 40, 180, 50, 0, 0.8), (60, 50, 180, 60, 0, 0.8)]),
        ("two that touch, each whole in one tile", [(80, 40, 112, 60, 0, 0.8), (112, 40, 144, 60, 0, 0.8)]),
        ("of two classes, beside each other", [(100, 40, 116, 60, 0, 0.8), (108, 40, 124, 60, 1, 0.8)]),
        ("of 2 px", [(111, 40, 113, 42, 0, 0.8), (114, 40, 116, 42, 0, 0.8)]),
        (
            "at the border of the scene",
            [(0, 0, 20, 30, 0, 0.8), (100, 118, 120, 128, 0, 0.8), (204, 9, 224, 19, 2, 0.8)],
        ),
        ("one in another", [(60, 30, 180, 90, 0, 0.8), (106, 50, 118, 62, 0, 0.8)]),
    ],
)
def test_two_tiles(name, objects):
    assert_objects(merged(TWO, [objects] * 2), *objects)


@pytest.mark.parametrize(
    "box",
    [(104, 106, 118, 120), (90, 90, 140, 140), (60, 60, 180, 190), (110, 20, 118, 200), (10, 105, 210, 115)],
    ids=["small", "larger than the overlap", "in no tile whole", "high", "wide"],
)
def test_a_corner_with_four_tiles(box):
    assert_objects(merged(FOUR, [[(*box, 1, 0.8)]] * 4), (*box, 1, 0.8))


def test_four_by_four_that_touch_at_a_corner():
    objects = [(96 + 8 * i, 96 + 8 * j, 104 + 8 * i, 104 + 8 * j, 0, 0.8) for i in range(4) for j in range(4)]
    assert_objects(merged(FOUR, [objects] * 4), *objects)


def test_an_object_that_one_tile_misses():
    there = [(105, 40, 115, 50, 0, 0.8)]
    assert_objects(merged(TWO, [there, []]), *there)
    assert_objects(merged(TWO, [[], there]), *there)


def test_score_and_class_are_those_of_the_view_with_most_context():
    """The tile that cuts the object calls it something else."""
    box = (110, 40, 140, 60)
    assert_objects(merged(TWO, [[(*box, 2, 0.95)], [(*box, 0, 0.6)]]), (*box, 0, 0.6))
    box = (108, 40, 116, 48)  # whole in both, farther from the edges of the first
    assert_objects(
        merged(TWO, [[(104, 40, 110, 48, 2, 0.7)], [(104, 40, 110, 48, 0, 0.9)]]), (104, 40, 110, 48, 2, 0.7)
    )


def test_views_far_from_the_edges_count_more():
    """Both whole; the box is their mean, nearer to the view with more context (18 to 8 px from the edge)."""
    [box] = merged(TWO, [[(104, 40, 110, 48, 0, 0.8)], [(105, 40, 111, 48, 0, 0.8)]]).boxes
    weight = 18**2 / (18**2 + 9**2)
    assert box == pytest.approx(
        (104 * weight + 105 * (1 - weight), 40, 110 * weight + 111 * (1 - weight), 48), abs=1e-4
    )


@pytest.mark.parametrize(("of", "count"), [(0, 1), (1, 2)])
def test_a_fragment_is_dropped_where_another_tile_sees_its_object(of, count):
    """Those of another class stay."""
    found = merged(TWO, [[(85, 40, 118, 50, 0, 0.8)], [(90, 40, 100, 50, of, 0.9)]])
    assert len(found.scores) == count
    assert (85, 40, 118, 50) in {tuple(box) for box in found.boxes.tolist()}


def test_a_cut_view_alone_stays_where_nothing_is_better():
    assert_objects(merged(TWO, [[(110, 40, 140, 60, 0, 0.8)], []]), (110, 40, 128, 60, 0, 0.8))


def test_doubles_of_two_tiles_are_removed_by_the_threshold_of_the_detector():
    """The second tile sees it a little beside: too far to be a view of it, near enough for NMS."""
    by_tile = [[(100, 40, 120, 60, 0, 0.9)], [(100, 40, 120, 60, 0, 0.8), (104, 42, 124, 62, 0, 0.7)]]
    alone = merged(TWO, by_tile, settings=MergeSettings(nms=0.5))
    assert_objects(alone, (100, 40, 120, 60, 0, 0.9 if alone.scores[0] > 0.85 else 0.8))
    assert len(merged(TWO, by_tile, settings=MergeSettings(nms=1.0)).scores) == 2


@pytest.mark.parametrize("up", [0, 10])
def test_doubles_wait_for_what_the_next_row_may_see(up):
    """A double that ends above the next row, of an object that reaches into it, is removed wherever the seam is."""
    grid = TileGrid(704, 704, 512, 128)
    first = np.array([(222, 153 - up, 262, 193 - up), (222, 133 - up, 262, 190 - up)], np.float64)
    by_tile = {0: (first, np.array([0.9, 0.6])), 1: (first[:1] - (192, 0, 192, 0), np.array([0.8]))}
    merger, parts = SeamMerger(grid), [Views.empty()]
    for tile in range(len(grid)):
        boxes, scores = by_tile.get(tile, (np.zeros((0, 4)), np.zeros(0)))
        parts += merger.add(tile, boxes, scores, np.zeros(len(scores), np.int64))
    found = Views.joined(parts)
    np.testing.assert_allclose(found.boxes, first[:1])
    np.testing.assert_allclose(found.scores, [0.9])


def random_views(grid, seed, count=400):
    rng = np.random.default_rng(seed)
    corner = rng.uniform(0, (grid.width - 70, grid.height - 70), (count, 2))
    boxes = np.concatenate((corner, corner + rng.uniform(2, 60, (count, 2))), axis=1)
    data = np.column_stack((boxes, rng.integers(0, 2, count), rng.uniform(0.3, 1, count)))
    noisy = [data + np.pad(rng.normal(0, 0.5, (count, 4)), ((0, 0), (0, 2))) for _ in range(len(grid))]
    return [part[rng.random(count) < 0.9] for part in noisy]


@pytest.mark.parametrize("seed", range(4))
def test_the_order_of_tiles_does_not_matter(seed):
    grid = TileGrid(700, 520, 128, 32)
    by_tile = random_views(grid, seed)
    first = merged(grid, by_tile)
    for order in (range(len(grid) - 1, -1, -1), np.random.default_rng(seed).permutation(len(grid))):
        for a, b in zip(first, merged(grid, by_tile, [int(t) for t in order]), strict=True):
            np.testing.assert_array_equal(a, b)


def test_rows_are_given_out_as_soon_as_they_are_final():
    """And what is kept does not grow with the scene."""
    grid = TileGrid(300, 8000, 128, 32)
    x, y = (v.ravel() for v in np.meshgrid(np.arange(0, 290, 14), np.arange(0, 7980, 14)))
    size = np.random.default_rng(0).uniform(3, 13, (len(x), 2))
    objects = np.column_stack((x, y, x + size[:, 0], y + size[:, 1], np.zeros(len(x)), np.full(len(x), 0.8)))
    merger, given, kept = SeamMerger(grid), 0, []
    for tile in range(len(grid)):
        for views in merger.add(tile, *seen(grid, tile, objects)):
            given += len(views.scores)
        if (tile + 1) % len(grid.columns) == 0:
            kept.append(len(merger._open.tiles))
    assert given == len(objects) and merger.complete and kept[-1] == 0
    assert max(kept) < 2 * np.median(kept) < len(objects) / 20


def test_each_tile_is_given_once():
    merger = SeamMerger(FOUR)
    nothing = seen(FOUR, 0, [])
    list(merger.add(0, *nothing))
    list(merger.add(3, *nothing))
    for tile in (0, 3, 4, -1):
        with pytest.raises(ValueError, match=f"tile {tile} of 4 was given before, or is none"):
            list(merger.add(tile, *nothing))
    assert not merger.complete
    list(merger.add(1, *nothing))
    with pytest.raises(ValueError, match="tile 1 of 4"):
        list(merger.add(1, *nothing))
    list(merger.add(2, *nothing))
    assert merger.complete


def test_nothing_found():
    found = merged(FOUR, [[]] * 4)
    assert (found.boxes.shape, found.scores.dtype, found.classes.dtype) == ((0, 4), np.float32, np.int64)


@pytest.mark.parametrize("wrong", [{"agreement": 0}, {"agreement": 1}, {"nms": 0}, {"nms": 1.1}, {"edge": -1}])
def test_wrong_settings(wrong):
    with pytest.raises(ConfigError, match="Merging needs"):
        MergeSettings(**wrong)


def test_random_scenes_have_no_seams():
    """Of the objects that two or more tiles see: how many are lost or doubled, how wrong their boxes are.

    The detector jitters, misses and doubles; nothing of that is a fault of merging. See benchmarks/merging.py.
    """
    row = value_in_benchmarks("merging", "merging.quality(40, 1000, {'d2tiny': merging.ours})[0]")
    assert row["objects"] > 5000
    assert row["count_error_%"] <= 0.1
    assert row["box_error_px"] <= 0.01
