"""Mosaic, mixup, multi-scale and random affine maps."""

from __future__ import annotations

import itertools

import cv2
import numpy as np
import pytest
import torch
from detectron2.data import transforms as T

from d2tiny.data.loading.loader import StreamMapper, build_train_loader
from d2tiny.data.loading.mapper import TinyDatasetMapper
from d2tiny.data.loading.mosaic import MosaicMapper
from d2tiny.data.transforms import AffineTransform, RandomAffine


@pytest.fixture(scope="module")
def records(tmp_path_factory):
    """Six images, each of one grey with a white square of 8 px at a known place, and one crowd region."""
    folder = tmp_path_factory.mktemp("mosaic")
    found = []
    for i in range(6):
        image = np.full((96, 96, 3), 20 + 10 * i, np.uint8)
        x, y = 10 + 9 * i, 70 - 10 * i
        image[y : y + 8, x : x + 8] = 255
        path = folder / f"{i}.png"
        cv2.imwrite(str(path), image)
        box = {"bbox": [x, y, 8, 8], "bbox_mode": 1, "category_id": i % 3, "iscrowd": 0}
        found.append({"file_name": str(path), "image_id": i, "height": 96, "width": 96, "annotations": [box]})
    return found


def mapper(**kwargs):
    settings = {"is_train": True, "size": 96, "max_iter": 100, "scale": (1.0, 1.0), "translate": 0.0}
    return MosaicMapper(**(settings | kwargs))


def white(image, box):
    """Mean of the pixels in a box."""
    x1, y1, x2, y2 = (round(float(v)) for v in box)
    return float(image[:, y1:y2, x1:x2].float().mean())


@pytest.mark.parametrize("seed", range(5))
def test_boxes_lie_on_their_objects(records, seed):
    np.random.seed(seed)
    result = mapper(scale=(0.8, 1.3), translate=0.1, min_visible=0.9).draw(records, 0, 0)
    assert result["image"].shape == (3, 96, 96)
    objects = result["instances"][~result["instances"].gt_ignore]
    for box in objects.gt_boxes.tensor:
        inner = box + torch.tensor([1.0, 1, -1, -1])
        assert white(result["image"], inner) > 240
    # and every white place belongs to some box, ignored ones included
    covered = torch.zeros(96, 96, dtype=torch.bool)
    for x1, y1, x2, y2 in result["instances"].gt_boxes.tensor.tolist():
        covered[int(y1) : int(np.ceil(y2)), int(x1) : int(np.ceil(x2))] = True
    assert not ((result["image"].amin(0) > 200) & ~covered).any()


@pytest.mark.parametrize("seed", range(8))
def test_objects_outside_a_crop_do_not_land_on_its_neighbours(records, seed):
    np.random.seed(seed)
    cropped = mapper(source=[T.RandomCrop("absolute", (40, 40))], min_visible=0.9)
    result = cropped.draw(records, 0, 0)
    objects = result["instances"][~result["instances"].gt_ignore]
    for box in objects.gt_boxes.tensor:
        assert white(result["image"], box + torch.tensor([1.0, 1, -1, -1])) > 240


def test_cut_and_small_boxes_become_ignore_regions_and_are_counted(records):
    np.random.seed(3)
    total = {"cut": 0, "small": 0}
    for index in range(40):
        result = mapper(scale=(0.1, 0.15)).draw(records, index % 6, 0)
        instances = result["instances"]
        assert bool(instances.gt_ignore.sum()) == bool(sum(result["dropped"].values()))
        for key, value in result["dropped"].items():
            total[key] += value
    assert total["small"] > 20  # 8 px at a tenth
    np.random.seed(3)
    cut = sum(mapper(scale=(1.5, 1.5)).draw(records, i % 6, 0)["dropped"]["cut"] for i in range(40))
    assert cut > 0


def test_several_cuts_add_up(records):
    """60 % left by the first and 70 % of that by the second are 42 %: less than half, though each left more."""
    whole = mapper()
    image = T.AugInput(np.zeros((100, 100, 3), np.uint8))
    image.boxes, image.classes, image.ignore = np.array([[-40.0, 10, 60, 60]]), np.zeros(1, np.int64), np.zeros(1, bool)
    assert whole.clip(image)["cut"] == 0
    image.image = image.image[:, :42]
    assert whole.clip(image)["cut"] == 1
    assert image.ignore.all()


def test_what_cannot_work_is_refused(records):
    with pytest.raises(ValueError, match="is_train"):
        mapper(is_train=False)
    with pytest.raises(TypeError, match="build_train_loader"):
        mapper()(records[0])


def test_no_object_is_lost_in_a_crowd(records):
    """4 × 1,500 boxes: every one inside the image is kept."""
    crowd = [{**r, "annotations": r["annotations"] * 1500} for r in records]
    np.random.seed(0)
    result = mapper(scale=(0.5, 0.5), mixup_prob=1.0).draw(crowd, 0, 0)
    assert len(result["instances"]) == 8 * 1500


def test_mixup_keeps_the_objects_of_both(records):
    np.random.seed(0)
    result = mapper(mixup_prob=1.0, scale=(0.5, 0.5)).draw(records, 0, 0)
    assert len(result["instances"]) == 8
    # each square is mixed with the other's grey: neither black nor white
    values = [white(result["image"], b) for b in result["instances"].gt_boxes.tensor]
    assert all(60 < v < 250 for v in values)


def test_closing_leaves_plain_images(records):
    plain = mapper(close_share=0.5, augmentations=[T.RandomFlip(prob=1.0)])
    result = plain.draw(records, 2, 50)
    flipped = TinyDatasetMapper(is_train=True, augmentations=[T.RandomFlip(prob=1.0)])(records[2])
    assert torch.equal(result["image"], flipped["image"])
    assert torch.equal(result["instances"].gt_boxes.tensor, flipped["instances"].gt_boxes.tensor)
    np.random.seed(0)
    assert not torch.equal(plain.draw(records, 2, 49)["image"], flipped["image"])


def test_multi_scale_is_one_size_for_a_batch_and_changes_with_the_period(records):
    scaled = mapper(multi_scale=2, multi_scale_period=5, mosaic_prob=0.0)
    sizes = [scaled.draw(records, i % 6, i)["image"].shape[-1] for i in range(100)]
    assert all(len(set(sizes[i : i + 5])) == 1 for i in range(0, 100, 5))
    assert set(sizes) <= {32, 64, 96, 128, 160}
    assert len(set(sizes)) > 2
    result = scaled.draw(records, 0, next(i for i, s in enumerate(sizes) if s == 160))
    assert white(result["image"], result["instances"].gt_boxes.tensor[0] + torch.tensor([2.0, 2, -2, -2])) > 240


def test_the_loader_hands_over_place_and_time_and_resumes(records):
    stream = mapper(scale=(0.5, 1.5), mixup_prob=0.5, multi_scale=1, close_share=0.05)
    assert isinstance(stream, StreamMapper)
    assert not isinstance(TinyDatasetMapper(is_train=True), StreamMapper)
    loader = build_train_loader(dataset=records, mapper=stream, total_batch_size=2, seed=3)
    first = list(itertools.islice(loader.iter_from(0), 8))
    later = list(itertools.islice(loader.iter_from(4), 4))
    for one, two in zip(first[4:], later, strict=True):
        for a, b in zip(one, two, strict=True):
            assert torch.equal(a["image"], b["image"])
            assert torch.equal(a["instances"].gt_boxes.tensor, b["instances"].gt_boxes.tensor)
    assert len({tuple(b["image"].shape) for b in first[0]}) == 1


def test_affine_by_hand():
    """Twice as large about the middle (4, 4) of 8 × 8: (4, 4) stays, (5, 3) goes to (6, 2)."""
    np.random.seed(0)
    image = np.zeros((8, 8, 3), np.uint8)
    image[3, 5] = 255
    augmented = T.AugInput(image)
    augmented.boxes = np.array([[5.0, 3, 6, 4]])
    augmented.ignore = np.zeros(1, bool)
    RandomAffine(scale=(2.0, 2.0), translate=0.0)(augmented)
    assert augmented.boxes.tolist() == [[6, 2, 8, 4]]
    assert augmented.image[2:4, 6:8].min() > 100
    assert augmented.image[:2].max() < 100


def test_rotated_boxes_hold_their_objects():
    image = np.zeros((100, 100, 3), np.uint8)
    image[40:44, 60:72] = 255
    augmented = T.AugInput(image)
    augmented.boxes, augmented.ignore = np.array([[60.0, 40, 72, 44]]), np.zeros(1, bool)
    np.random.seed(2)
    RandomAffine(scale=(1.0, 1.2), degrees=40, shear=10)(augmented)
    ys, xs = np.nonzero(augmented.image[..., 0] > 160)
    x1, y1, x2, y2 = augmented.boxes[0]
    assert x1 - 1 <= xs.min()
    assert xs.max() + 1 <= x2 + 1
    assert y1 - 1 <= ys.min()
    assert ys.max() + 1 <= y2 + 1


def test_min_object_limits_shrinking():
    boxes, ignore = np.array([[0.0, 0, 8, 8]]), np.zeros(1, bool)
    image = np.zeros((64, 64, 3), np.uint8)
    for seed in range(20):
        np.random.seed(seed)
        matrix = RandomAffine(scale=(0.1, 1.0), min_object=4.0).get_transform(image, boxes, ignore).matrix
        assert matrix[0, 0] >= 0.5


def test_identity_changes_nothing():
    image = np.random.default_rng(0).integers(0, 255, (9, 7, 3)).astype(np.uint8)
    same = AffineTransform(np.array([[1.0, 0, 0], [0, 1, 0]]), (9, 7))
    assert np.array_equal(same.apply_image(image), image)
    assert same.apply_coords(np.array([[2.0, 3.0]])).tolist() == [[2, 3]]


@pytest.mark.parametrize(
    ("kwargs", "words"),
    [
        ({"mosaic_prob": 1.5}, "mosaic_prob"),
        ({"size": 8}, "size"),
        ({"multi_scale": 3}, "nothing of 96"),
        ({"mixup_alpha": 0.0}, "mixup_alpha"),
        ({"scale": (1.5, 0.5)}, "bad scale"),
        ({"min_object": -1.0}, "min_object"),
    ],
)
def test_bad_settings_are_refused(kwargs, words):
    with pytest.raises(ValueError, match=words):
        mapper(**kwargs)
