from __future__ import annotations

import cv2
import numpy as np
import pytest

from d2tiny.inference.preview import draw_preview
from d2tiny.inference.scene import Scene, SceneDetections
from d2tiny.utils.errors import DatasetError
from d2tiny.visualization import Boxes2D, class_color, draw_boxes

NAMES = ("ship", "car")


class Picture:
    def __init__(self, image):
        self.image = image
        self.height, self.width = image.shape[:2]

    def rows(self, first, last):
        return self.image[first:last]


def scene(width, height):
    return Scene("folder/a.png", width, height, NAMES)


def found(where, boxes, classes, scores=None):
    boxes = np.array(boxes, dtype=np.float64).reshape(-1, 4)
    scores = np.full(len(boxes), 0.5) if scores is None else np.array(scores)
    return SceneDetections(where, boxes, scores.astype(np.float32), np.array(classes, dtype=np.int64))


def read(path):
    return cv2.cvtColor(cv2.imread(str(path)), cv2.COLOR_BGR2RGB)


def test_a_picture_as_d2tiny_predict_draws_it(tmp_path):
    rng = np.random.default_rng(0)
    image = rng.integers(0, 255, (300, 400, 3), dtype=np.uint8)
    corners = rng.uniform(0, 280, (60, 2))
    boxes = np.concatenate((corners, corners + rng.uniform(2, 40, (60, 2))), axis=1).astype(np.float32)
    classes, scores = rng.integers(0, 2, 60), rng.random(60).astype(np.float32)
    where = scene(400, 300)
    parts = [found(where, boxes[i : i + 25], classes[i : i + 25], scores[i : i + 25]) for i in (0, 25, 50)]
    draw_preview(where, iter(parts), Picture(image), tmp_path / "new" / "a.jpg")
    picture = draw_boxes(image, Boxes2D(boxes, classes, scores), NAMES, title="a.png")
    assert picture.shape[1] == 1200
    quality = [cv2.IMWRITE_JPEG_QUALITY, 95, cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444]
    expected = cv2.imencode(".jpg", picture[:, :, ::-1], quality)[1].tobytes()
    assert (tmp_path / "new" / "a.jpg").read_bytes() == expected


def test_larger_scenes_are_reduced_and_their_boxes_with_them(tmp_path):
    where = scene(1000, 500)
    objects = found(where, [[400, 100, 600, 300], [900, 400, 903, 402]], [0, 1])
    draw_preview(where, [objects], Picture(np.zeros((500, 1000, 3), np.uint8)), tmp_path / "a.jpg", side=200)
    picture = read(tmp_path / "a.jpg").astype(int)
    assert picture.shape[1] == 200  # 1 : 5, not enlarged again
    near = [np.abs(picture[:100] - class_color(i)).max(2) < 60 for i in (0, 1)]
    rows, columns = np.nonzero(near[0])
    assert (columns.min(), columns.max(), rows.min(), rows.max()) == (79, 120, 19, 60)
    assert not near[0][25:55, 85:115].any()
    rows, columns = np.nonzero(near[1])  # a point of a box of 0.6 px, still there
    assert (179, 79) <= (columns.min(), rows.min()) <= (columns.max(), rows.max()) <= (181, 81)


def test_without_objects(tmp_path):
    draw_preview(scene(50, 40), [], Picture(np.full((40, 50, 3), 90, np.uint8)), tmp_path / "a.jpg")
    assert read(tmp_path / "a.jpg").shape[1] == 300


@pytest.mark.parametrize(
    ("box", "cls", "message"), [([0, 0, np.nan, 3], 0, "no numbers"), ([0, 0, 3, 3], 2, r"classes 2 to 2.*\(0 to 1\)")]
)
def test_objects_that_are_none_of_the_scene(tmp_path, box, cls, message):
    where = scene(50, 40)
    with pytest.raises(DatasetError, match=f"folder/a.png.*{message}"):
        draw_preview(where, [found(where, box, [cls])], Picture(np.zeros((40, 50, 3), np.uint8)), tmp_path / "a.jpg")
    assert not list(tmp_path.iterdir())
