from __future__ import annotations

import numpy as np

from d2tiny.visualization import QUERY_COLOR, Boxes2D, class_color, draw_boxes, draw_density, side_by_side

NAMES = ["ship", "car"]


def items(boxes, classes, scores=None):
    return Boxes2D(np.array(boxes, dtype=float).reshape(-1, 4), np.array(classes, dtype=np.int64), scores)


def test_an_8px_object_stays_visible():
    """The box is one pixel wide and outside the object: all 8×8 object pixels keep their values."""
    image = np.zeros((100, 100, 3), np.uint8)
    image[40:48, 30:38] = 200
    before = image.copy()
    picture = draw_boxes(image, items([[30, 40, 38, 48]], [1]), NAMES, scale=1)
    assert np.array_equal(image, before)
    assert (picture[40:48, 30:38] == 200).all()
    ring = picture[39:49, 29:39].reshape(-1, 3)
    assert (ring == class_color(1)).all(1).sum() == 4 * 9


def test_small_images_are_enlarged_and_large_ones_are_not():
    assert draw_boxes(np.zeros((200, 300, 3), np.uint8), items([], []), NAMES).shape[1] == 1200
    assert draw_boxes(np.zeros((200, 3000, 3), np.uint8), items([], []), NAMES).shape[1] == 3000


def test_legend_grows_below_and_wraps():
    image = np.zeros((50, 120, 3), np.uint8)
    names = [f"class with a long name {i}" for i in range(5)]
    plain = draw_boxes(image, items([], []), names, scale=1)
    full = draw_boxes(image, items([[0, 0, 5, 5]] * 5, range(5)), names, scale=1)
    assert plain.shape[0] > 50
    assert full.shape[0] > plain.shape[0] + 60
    for i in range(5):
        assert (full[50:] == class_color(i)).all(2).any()


def test_best_score_lies_on_top():
    boxes = items([[2, 2, 9, 9], [2, 2, 9, 9]], [0, 1], np.array([0.9, 0.2]))
    assert (draw_boxes(np.zeros((20, 20, 3), np.uint8), boxes, NAMES, scale=1)[1, 1] == class_color(0)).all()


def test_side_by_side():
    image = np.full((64, 80, 3), 90, np.uint8)
    picture = side_by_side(image, items([[4, 4, 9, 9]], [0]), items([], []), NAMES, name="a.png")
    assert picture.shape[1] > 160
    half = picture.shape[1] // 2
    assert (picture[:, :half] == class_color(0)).all(2).any()
    assert not (picture[:, half + 10 :] == class_color(0)).all(2).any()


def test_colors_are_distinct_and_endless():
    assert len({class_color(i) for i in range(40)}) == 40


def test_density_is_brightest_where_it_is_largest():
    image, density = np.full((8, 8, 3), 100, np.uint8), np.zeros((4, 4))
    density[0, 3] = 2.0
    picture = draw_density(image, density, np.array([[1.0, 6.0]]))
    assert picture[1, 7].sum() > 3 * 200
    assert (picture[1, 1] == 70).all()
    assert (picture[6, 1] == QUERY_COLOR).all()
    assert (draw_density(image, None, np.zeros((0, 2))) == 70).all()
