"""Checks of images, mapper, crop and loaders."""

from __future__ import annotations

import itertools
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog
from detectron2.data import transforms as T

from d2tiny.data import TinyDatasetMapper, build_test_loader, build_train_loader, load_datasets
from d2tiny.data.loading.headers import check_images, image_problem
from d2tiny.data.transforms import ObjectCrop
from d2tiny.utils.errors import ConfigError, DatasetError


def write(path: Path, size=(20, 30)) -> Path:
    rng = np.random.default_rng(0)
    cv2.imwrite(str(path), rng.integers(0, 255, (*size, 3), dtype=np.uint8))
    return path


def record(path, boxes=(), size=(20, 30), crowd=()):
    annotations = [
        {"bbox": list(b), "bbox_mode": 1, "category_id": i % 8, "iscrowd": int(i in crowd)} for i, b in enumerate(boxes)
    ]
    return {"file_name": str(path), "image_id": 3, "height": size[0], "width": size[1], "annotations": annotations}


@pytest.mark.parametrize("ending", ["jpg", "png"])
def test_image_problem(tmp_path, ending):
    path = write(tmp_path / f"a.{ending}")
    assert image_problem(str(path), 30, 20) is None
    assert "30x20 px, but the json says 31x20" in image_problem(str(path), 31, 20)
    assert image_problem(str(tmp_path / "no.png"), 1, 1) == "missing"
    path.write_bytes(path.read_bytes()[:-20])
    assert "cut short" in image_problem(str(path), 30, 20)
    path.write_bytes(b"not an image")
    assert "unreadable" in image_problem(str(path), 30, 20)


def test_a_jpeg_with_bytes_behind_its_end_is_whole(tmp_path):
    path = write(tmp_path / "a.jpg")
    path.write_bytes(path.read_bytes() + b"x" * 9000)
    assert image_problem(str(path), 30, 20) is None


def test_mapper_obeys_the_box_mode(tmp_path):
    item = record(write(tmp_path / "a.png"), [(2, 3, 9, 8)])
    item["annotations"][0]["bbox_mode"] = 0  # XYXY
    assert TinyDatasetMapper(is_train=True)(item)["instances"].gt_boxes.tensor.tolist() == [[2, 3, 9, 8]]


def test_check_images_names_the_files(tmp_path):
    good = write(tmp_path / "good.png")
    records = [record(good), *[record(tmp_path / f"no{i}.png") for i in range(12)]]
    with pytest.raises(DatasetError) as error:
        check_images(records, "mine")
    message = str(error.value)
    assert "12 of 13 images of 'mine'" in message
    assert "no0.png: missing" in message
    assert "... and 2 more" in message
    assert "good.png" not in message


def test_broken_images_are_found_before_training(datasets, tmp_path, monkeypatch):
    import shutil

    copy = tmp_path / "aerial"
    shutil.copytree(datasets, copy)
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    victim = sorted((copy / "train").iterdir())[2]
    victim.unlink()
    with pytest.raises(DatasetError, match=victim.name):
        load_datasets("aerial_train")
    assert len(load_datasets("aerial_train", check=False)) == 8


def test_mapper_native_size_and_values(tmp_path):
    path = write(tmp_path / "a.png")
    result = TinyDatasetMapper(is_train=True)(record(path, [(2, 3, 4, 5), (10, 10, 6, 4)], crowd=(1,)))
    expected = cv2.imread(str(path))[:, :, ::-1].transpose(2, 0, 1)
    assert np.array_equal(result["image"].numpy(), expected)
    instances = result["instances"]
    assert instances.gt_boxes.tensor.tolist() == [[2, 3, 6, 8], [10, 10, 16, 14]]
    assert instances.gt_classes.tolist() == [0, 1]
    assert instances.gt_ignore.tolist() == [False, True]
    assert instances.gt_boxes.tensor.dtype == torch.float32
    assert (result["height"], result["width"], result["image_id"]) == (20, 30, 3)
    assert "annotations" not in result


def test_mapper_flip_moves_boxes_with_pixels(tmp_path):
    image = np.zeros((20, 30, 3), np.uint8)
    image[3:8, 2:6] = 255
    cv2.imwrite(str(tmp_path / "a.png"), image)
    for horizontal in (True, False):
        flip = T.RandomFlip(prob=1.0, horizontal=horizontal, vertical=not horizontal)
        result = TinyDatasetMapper(is_train=True, augmentations=[flip])(record(tmp_path / "a.png", [(2, 3, 4, 5)]))
        x1, y1, x2, y2 = result["instances"].gt_boxes.tensor[0].int().tolist()
        assert (result["image"][:, y1:y2, x1:x2] == 255).all()
        assert int((result["image"] == 255).sum()) == 3 * 20


class FixedCrop(T.Augmentation):
    def get_transform(self, image):
        return T.CropTransform(10, 0, 20, 20)


def test_mapper_accounts_for_every_box(tmp_path):
    """A crop at x = 10: one box outside, one cut to 1/4, one to 3/4, one to half a pixel, one whole."""
    boxes = [(0, 0, 5, 5), (7, 2, 4, 4), (9, 8, 4, 4), (6.5, 12, 4, 4), (20, 12, 4, 4)]
    mapper = TinyDatasetMapper(is_train=True, augmentations=[FixedCrop()])
    result = mapper(record(write(tmp_path / "a.png"), boxes))
    instances = result["instances"]
    assert instances.gt_boxes.tensor.tolist() == [[0, 2, 1, 6], [0, 8, 3, 12], [0, 12, 0.5, 16], [10, 12, 14, 16]]
    assert instances.gt_ignore.tolist() == [True, False, True, False]  # what was cut is not background either
    assert result["dropped"] == {"cut": 2, "small": 0}
    tiny = TinyDatasetMapper(is_train=True, min_gt_size=1.0)
    result = tiny(record(tmp_path / "a.png", [(1, 1, 0.5, 3), (2, 2, 3, 3)]))
    assert result["instances"].gt_ignore.tolist() == [True, False]  # too small to learn, but no background
    assert result["dropped"] == {"cut": 0, "small": 1}


def test_mapper_without_ignore_regions_for_stock_heads(tmp_path):
    mapper = TinyDatasetMapper(is_train=True, ignore_regions=False)
    instances = mapper(record(write(tmp_path / "a.png"), [(2, 3, 4, 5), (1, 1, 9, 9)], crowd=(1,)))["instances"]
    assert len(instances) == 1
    assert not instances.has("gt_ignore")


def test_mapper_empty_image_and_test_mode(tmp_path):
    path = write(tmp_path / "a.png")
    result = TinyDatasetMapper(is_train=True)(record(path))
    assert result["instances"].gt_boxes.tensor.shape == (0, 4)
    assert "instances" not in TinyDatasetMapper(is_train=False)(record(path, [(1, 1, 3, 3)]))


def test_mapper_names_a_broken_image(tmp_path):
    (tmp_path / "a.png").write_bytes(b"broken")
    with pytest.raises(DatasetError, match=r"a\.png"):
        TinyDatasetMapper(is_train=True)(record(tmp_path / "a.png"))


def test_object_crop_holds_an_object():
    np.random.seed(0)
    image = np.zeros((300, 400, 3), np.uint8)
    boxes = np.array([[0, 0, 8, 8], [390, 290, 400, 300], [200, 100, 212, 111], [9, 250, 30, 299]], dtype=float)
    crop = ObjectCrop((64, 96), object_prob=1.0)
    held = set()
    for _ in range(100):
        t = crop.get_transform(image, boxes, np.array([False, False, False, True]))
        assert (t.h, t.w) == (64, 96)
        assert 0 <= t.x0 <= 400 - 96
        assert 0 <= t.y0 <= 300 - 64
        moved = t.apply_box(boxes)
        whole = (moved[:, 0] >= 0) & (moved[:, 1] >= 0) & (moved[:, 2] <= 96) & (moved[:, 3] <= 64)
        assert whole[:3].any()
        held.update(np.flatnonzero(whole).tolist())
    assert {0, 1, 2} <= held  # the ignore region may be inside by chance, but is never aimed at


def test_object_crop_edges():
    small = np.zeros((40, 500, 3), np.uint8)
    t = ObjectCrop((64, 64)).get_transform(small, np.zeros((0, 4)), np.zeros(0, bool))
    assert (t.h, t.w, t.y0) == (40, 64, 0)
    huge = np.array([[10.0, 0, 490, 40]])
    t = ObjectCrop((64, 64), object_prob=1.0).get_transform(small, huge, np.array([False]))
    assert t.x0 == (10 + 490 - 64) // 2
    with pytest.raises(ValueError, match="bad size"):
        ObjectCrop((0, 4))


def keys(batches, count):
    return [[(d["image_id"], d["image"].sum().item()) for d in b] for b in itertools.islice(batches, count)]


@pytest.mark.parametrize("workers", [0, 2])
def test_batches_are_a_function_of_seed_and_iteration(datasets, workers):
    records = DatasetCatalog.get("aerial_train")
    mapper = TinyDatasetMapper(is_train=True, augmentations=[ObjectCrop((48, 48)), T.RandomFlip()])

    def loader(seed):
        return build_train_loader(dataset=records, mapper=mapper, total_batch_size=3, num_workers=workers, seed=seed)

    whole = keys(loader(1).iter_from(0), 7)
    assert keys(loader(1).iter_from(4), 3) == whole[4:]
    assert keys(loader(2).iter_from(0), 7) != whole
    first_epoch = [i for batch in whole for i, _ in batch][:8]
    assert sorted(first_epoch) == sorted(r["image_id"] for r in records)


def test_loading_leaves_global_random_state_alone(datasets):
    records = DatasetCatalog.get("aerial_train")
    loader = build_train_loader(dataset=records, mapper=TinyDatasetMapper(is_train=True), total_batch_size=2)
    np.random.seed(5)
    torch.manual_seed(5)
    expected = np.random.rand(), torch.rand(1)
    np.random.seed(5)
    torch.manual_seed(5)
    next(loader.iter_from(0))
    assert (np.random.rand(), torch.rand(1)) == expected


def test_test_loader_visits_each_image_once(datasets):
    records = DatasetCatalog.get("aerial_val")
    loader = build_test_loader(dataset=records, mapper=TinyDatasetMapper(is_train=False))
    assert [b[0]["image_id"] for b in loader] == [r["image_id"] for r in records]


def test_a_dataset_can_be_shown_several_times(datasets):
    once = load_datasets(["aerial_train", "aerial_val"])
    names = [record["file_name"] for record in load_datasets(["aerial_train", "aerial_val"], repeats=[1, 3])]
    assert names == [record["file_name"] for record in once[:8] + 3 * once[8:]]
    for repeats in ([2], [1, 0], [1, 1.5], [1, True], [1, 1, 1]):
        with pytest.raises(
            ConfigError, match=r"needs a whole number from 1 on for each of the datasets \['aerial_train'"
        ):
            load_datasets(["aerial_train", "aerial_val"], repeats=repeats)


def test_load_datasets(datasets):
    assert len(load_datasets(["aerial_train", "aerial_val"])) == 11
    with pytest.raises(ConfigError, match="total_batch_size=0"):
        build_train_loader(dataset=[], mapper=lambda r: r, total_batch_size=0)
