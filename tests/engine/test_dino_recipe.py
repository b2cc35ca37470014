"""DINO's recipes: the step of the rate, and the images of the published training."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from detectron2.config import instantiate
from detectron2.structures import BoxMode

from d2tiny.config import load_config

PUBLISHED = "aitodv2/dino_r50_5scale_36e"
BOX = (500, 300, 60, 40)  # px: x, y, width, height


@pytest.mark.parametrize(
    ("name", "step", "epochs"),
    [("aitod/dino_r50_4scale_12e", 11, 12), ("aitod/dino_r50_5scale_24e", 20, 24), (PUBLISHED, 30, 36)],
)
def test_the_rate_falls_once_as_in_the_paper(name, step, epochs):
    rate = instantiate(load_config(name).lr_multiplier)
    assert [rate((step - 0.01) / epochs), rate((step + 0.01) / epochs), rate(1.0)] == pytest.approx([1.0, 0.1, 0.1])


@pytest.fixture
def record(tmp_path):
    """An image of 800x800 px, black but for a white object."""
    image = np.zeros((800, 800, 3), np.uint8)
    x, y, width, height = BOX
    image[y : y + height, x : x + width] = 255
    cv2.imwrite(str(tmp_path / "a.png"), image)
    annotation = {"bbox": list(BOX), "bbox_mode": BoxMode.XYWH_ABS, "category_id": 2, "iscrowd": 0}
    return {"file_name": str(tmp_path / "a.png"), "annotations": [annotation], "height": 800, "width": 800}


def test_sizes_and_crops_of_the_published_training(record):
    """Half of the images are cropped to 384 to 600 px of a resized image; boxes stay where the objects are."""
    mapper = instantiate(load_config(PUBLISHED).dataloader.train.mapper)
    np.random.seed(0)
    cropped = flipped = 0
    seen = set()
    for _ in range(120):
        made = mapper(record)
        height, width = made["image"].shape[1:]
        seen.add(min(height, width))
        assert max(height, width) <= 1333
        square = height == width  # a crop is so by chance only
        cropped += not square
        if square:
            left = float(made["instances"].gt_boxes.tensor[0, 0]) / width
            flipped += left < 0.5
            assert min(abs(left - 500 / 800), abs(left - 240 / 800)) < 1e-3
        else:
            assert max(height, width) / min(height, width) <= 600 / 384 + 0.02
        _is_where_the_object_is(made)
    assert seen <= set(range(480, 801, 32))
    assert len(seen) > 8
    assert cropped == pytest.approx(60, abs=20)
    assert flipped / (120 - cropped) == pytest.approx(0.5, abs=0.2)


def _is_where_the_object_is(made):
    rows, columns = np.nonzero(made["image"][0].numpy() > 127)
    boxes = made["instances"].gt_boxes.tensor.numpy()
    if not len(rows):
        return
    expected = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
    np.testing.assert_allclose(boxes[0], expected, atol=2)


def test_tests_of_the_published_training_see_800_px(record):
    """The shorter side, whatever the image's own size."""
    mapper = instantiate(load_config(PUBLISHED).dataloader.test.mapper)
    assert mapper(record)["image"].shape == (3, 800, 800)
    image = cv2.imread(record["file_name"])[:400, :600]
    cv2.imwrite(record["file_name"], image)
    resized = mapper(record | {"height": 400, "width": 600, "annotations": []})["image"]
    assert resized.shape == (3, 800, 1200)
