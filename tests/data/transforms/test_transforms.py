"""Checks of the augmentations: pixels and boxes stay together, and each keeps its promise for many seeds."""

from __future__ import annotations

import itertools
from collections.abc import Iterable

import cv2
import numpy as np
import pytest
from detectron2.data import transforms as T

from d2tiny.data import TinyDatasetMapper
from d2tiny.data.loading.loader import ResumableLoader
from d2tiny.data.transforms import (
    BoxCopyPaste,
    GuardedScale,
    ObjectCrop,
    Photometric,
    QuarterTurn,
    RandomQuarterTurn,
)

NO_BOXES, NO_FLAGS = np.zeros((0, 4)), np.zeros(0, dtype=bool)
SEEDS = range(60)


def noise(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 255, (height, width, 3), dtype=np.uint8)


def aug_input(image: np.ndarray, boxes: Iterable = (), ignore=()) -> T.AugInput:
    """As TinyDatasetMapper builds it; class i for box i."""
    result = T.AugInput(image)
    result.boxes = np.array(list(boxes), dtype=np.float64).reshape(-1, 4)
    result.classes = np.arange(len(result.boxes), dtype=np.int64)
    result.ignore = np.isin(result.classes, list(ignore))
    return result


def crowded(seed: int, number: int = 12, side: int = 200, ignored: int = 2) -> T.AugInput:
    """Integer boxes of 3 to 20 px that do not overlap, on noise; the last ones are larger ignore regions."""
    rng, boxes = np.random.default_rng(seed), []
    while len(boxes) < number:
        low, high = ((30, 50), (3, 21))[len(boxes) < number - ignored]
        w, h = rng.integers(min(low, high), max(low, high), 2)
        x, y = rng.integers(0, side - w), rng.integers(0, side - h)
        if all(x >= b[2] or x + w <= b[0] or y >= b[3] or y + h <= b[1] for b in boxes):
            boxes.append((x, y, x + w, y + h))
    return aug_input(noise(side, side, seed), boxes, range(number - ignored, number))


# --- quarter turns


def test_a_quarter_turn_by_hand():
    """Rows [0 1 2] and [3 4 5], counter-clockwise: [2 5], [1 4], [0 3]. Pixel 5 moves from (2, 1) to (1, 0)."""
    image = np.arange(6, dtype=np.uint8).reshape(2, 3)
    turn = QuarterTurn(1, 2, 3)
    assert turn.apply_image(image).tolist() == [[2, 5], [1, 4], [0, 3]]
    assert turn.apply_box(np.array([[2.0, 1, 3, 2]])).tolist() == [[1, 0, 2, 1]]
    assert QuarterTurn(2, 2, 3).apply_box(np.array([[2.0, 1, 3, 2]])).tolist() == [[0, 0, 1, 1]]
    assert QuarterTurn(3, 2, 3).apply_box(np.array([[2.0, 1, 3, 2]])).tolist() == [[0, 2, 1, 3]]
    assert QuarterTurn(5, 2, 3).apply_image(image).tolist() == [[2, 5], [1, 4], [0, 3]]


@pytest.mark.parametrize("turns", [0, 1, 2, 3, -1])
def test_quarter_turns_move_boxes_with_pixels_and_back(turns):
    image, boxes = np.zeros((20, 30, 3), np.uint8), np.array([[2.0, 3, 6, 8], [20, 1, 30, 2], [0, 19, 1, 20]])
    for i, (x1, y1, x2, y2) in enumerate(boxes.astype(int), start=1):
        image[y1:y2, x1:x2] = i
    turn = QuarterTurn(turns, 20, 30)
    turned, moved = turn.apply_image(image), turn.apply_box(boxes)
    assert turned.flags.c_contiguous
    for i, (x1, y1, x2, y2) in enumerate(moved.astype(int), start=1):
        assert (turned[y1:y2, x1:x2] == i).all()
        assert (turned == i).sum() == (image == i).sum() == 3 * (y2 - y1) * (x2 - x1)
    back = turn.inverse()
    assert np.array_equal(back.apply_image(turned), image)
    assert np.array_equal(back.apply_box(moved), boxes)
    points = np.random.default_rng(0).uniform(0, 20, (9, 2))
    assert np.allclose(back.apply_coords(turn.apply_coords(points)), points, atol=1e-12)
    assert turn.apply_box(NO_BOXES).shape == (0, 4)
    assert turn.apply_segmentation(image[:, :, 0]).shape == turned.shape[:2]


def test_random_quarter_turns_are_all_as_frequent():
    np.random.seed(0)
    found = [RandomQuarterTurn().get_transform(np.zeros((4, 6, 3))).turns for _ in range(400)]
    assert all(70 < found.count(i) < 130 for i in range(4))


# --- scale


def size_root(boxes: np.ndarray) -> np.ndarray:
    return np.sqrt((boxes[:, 2:] - boxes[:, :2]).prod(axis=1))


def factor(transform: T.Transform) -> tuple[float, float]:
    return transform.new_h / transform.h, transform.new_w / transform.w


def test_scaling_never_pushes_an_object_below_the_limit():
    image = np.zeros((211, 173, 3), np.uint8)
    scale = GuardedScale((0.2, 2.0), min_object=5.0)
    shrunk = 0
    for seed in range(300):
        np.random.seed(seed)
        rng = np.random.default_rng(seed)
        corners = rng.uniform(0, 120, (6, 2))
        boxes = np.concatenate((corners, corners + rng.uniform(2 if seed % 2 else 7, 40, (6, 2))), axis=1)
        transform = scale.get_transform(image, boxes, np.zeros(6, bool))
        before, after = size_root(boxes), size_root(transform.apply_box(boxes))
        assert (after >= np.minimum(before, 5.0) - 1e-9).all()
        if before.min() <= 5:
            assert min(factor(transform)) >= 1
        shrunk += min(factor(transform)) < 1
    assert shrunk > 30


def test_scaling_respects_its_range():
    """Sizes are rounded up, so the factor may exceed the range by one pixel."""
    image, scale = np.zeros((101, 203, 3), np.uint8), GuardedScale((0.5, 2.0), min_object=4.0)
    big = np.array([[10.0, 10, 90, 90]])
    found = []
    for seed in range(300):
        np.random.seed(seed)
        transform = scale.get_transform(image, *((NO_BOXES, NO_FLAGS) if seed % 2 else (big, np.zeros(1, bool))))
        found += factor(transform)
        assert min(factor(transform)) >= 0.5
        assert transform.new_h <= 202
        assert transform.new_w <= 406
    assert min(found) < 0.52
    assert max(found) > 1.9
    assert 0.4 < np.mean(np.array(found) < 1) < 0.6  # halving is as frequent as doubling


def test_scaling_looks_at_objects_only():
    np.random.seed(0)
    tiny = np.array([[10.0, 10, 12, 12]])
    scale = GuardedScale((0.5, 0.5))
    assert factor(scale.get_transform(np.zeros((64, 64, 3)), tiny, np.ones(1, bool))) == (0.5, 0.5)
    assert factor(scale.get_transform(np.zeros((64, 64, 3)), tiny, np.zeros(1, bool))) == (1, 1)
    # min_object 4 and an object of 6: at most to 2/3
    six = np.array([[10.0, 10, 16, 16]])
    assert factor(scale.get_transform(np.zeros((60, 90, 3)), six, np.zeros(1, bool))) == pytest.approx((2 / 3, 2 / 3))


@pytest.mark.parametrize("scales", [(0.5, 2.0), (1.5, 2.0)])
def test_scaling_never_enlarges_beyond_the_largest_side(scales):
    for height, width in ((100, 150), (160, 40), (300, 500)):
        for seed in SEEDS:
            np.random.seed(seed)
            transform = GuardedScale(scales, max_side=160).get_transform(
                np.zeros((height, width, 3)), NO_BOXES, NO_FLAGS
            )
            assert max(transform.new_h, transform.new_w) <= max(160, height, width)


def test_scaling_enlarges_the_image_with_its_boxes():
    image = np.zeros((20, 30, 3), np.uint8)
    image[4:8, 6:12] = 255
    result = aug_input(image, [(6, 4, 12, 8)])
    GuardedScale((3, 3))(result)
    assert result.image.shape == (60, 90, 3)
    assert result.boxes.tolist() == [[18, 12, 36, 24]]
    assert (result.image[14:22, 20:34] == 255).all()


# --- colours


def test_colours_change_only_the_pixels():
    image, boxes = noise(40, 50), [(1, 2, 9, 9)]
    changed = 0
    for seed in SEEDS:
        np.random.seed(seed)
        result = aug_input(image.copy(), boxes, [0])
        given = result.image
        Photometric(prob=1.0)(result)
        assert (result.image.shape, result.image.dtype) == ((40, 50, 3), np.uint8)
        assert result.boxes.tolist() == [list(boxes[0])]
        assert (result.classes.tolist(), result.ignore.tolist()) == ([0], [True])
        assert np.array_equal(given, image)  # its input is not modified
        changed += not np.array_equal(result.image, image)
    assert changed == len(SEEDS)


def test_colours_with_nothing_to_do_are_identity():
    every = np.stack(np.meshgrid(*[np.arange(0, 256, 15)] * 3), axis=-1).reshape(-1, 18, 3).astype(np.uint8)
    for settings in (
        {"prob": 0.0},
        dict.fromkeys(("brightness", "contrast", "gamma", "gain", "saturation", "hue"), 0.0) | {"prob": 1.0},
    ):
        for seed in range(10):
            np.random.seed(seed)
            result = aug_input(every)
            Photometric(**settings)(result)
            assert np.array_equal(result.image, every)


@pytest.mark.parametrize(
    ("name", "value", "bound"),
    [("brightness", 0.2, 52), ("gain", 0.1, 26), ("contrast", 0.2, 52), ("gamma", 0.25, 21), ("hue", 10.0, 46)],
)
def test_each_colour_setting_stays_within_its_range(name, value, bound):
    """In levels of 255: shift 0.2 -> 51; gain 0.1 -> 25.5; contrast 0.2 of up to 255 -> 51; gamma: the largest of
    |x - x**1.25| is 0.082 -> 20.9; hue 10 of 60 degrees in which a channel runs from 0 to 255 -> 42.5 and rounding.
    """
    off = dict.fromkeys(("brightness", "contrast", "gamma", "gain", "saturation", "hue"), 0.0)
    image = noise(64, 64)
    largest = 0
    for seed in SEEDS:
        np.random.seed(seed)
        result = aug_input(image)
        Photometric(**{**off, name: value, "prob": 1.0})(result)
        largest = max(largest, np.abs(result.image.astype(int) - image).max())
    assert bound / 3 < largest <= bound


def test_grey_stays_grey_without_gain():
    grey = np.repeat(noise(30, 30)[:, :, :1], 3, axis=2)
    for seed in SEEDS:
        np.random.seed(seed)
        result = aug_input(grey)
        Photometric(prob=1.0, gain=0.0, brightness=0.3)(result)
        assert (result.image == result.image[:, :, :1]).all()


def test_colours_take_flipped_views_and_rgb_as_bgr():
    image = noise(20, 30)
    np.random.seed(4)
    straight = aug_input(image[:, ::-1].copy())
    Photometric(prob=1.0)(straight)
    np.random.seed(4)
    view = aug_input(image[:, ::-1])
    Photometric(prob=1.0)(view)
    assert np.array_equal(straight.image, view.image)


# --- copies


def overlap(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """(len(a), len(b)) areas in px²."""
    sides = np.minimum(a[:, None, 2:], b[None, :, 2:]) - np.maximum(a[:, None, :2], b[None, :, :2])
    return sides.clip(0).prod(axis=2)


def views(patch: np.ndarray) -> list[np.ndarray]:
    """The eight ways to turn and mirror."""
    return [np.rot90(p, k) for p in (patch, patch[:, ::-1]) for k in range(4)]


def test_copies_are_whole_objects_at_free_places():
    pasted = 0
    for seed in SEEDS:
        np.random.seed(seed)
        given = crowded(seed)
        image, source, old = given.image, given.image.copy(), given.boxes.copy()
        BoxCopyPaste(copies=8, prob=1.0)(given)
        assert image is not given.image
        assert np.array_equal(image, source)  # the input is not modified
        assert (given.image.shape, given.image.dtype) == (source.shape, np.uint8)
        count = len(given.boxes)
        assert count == len(given.classes) == len(given.ignore)
        assert np.array_equal(given.boxes[:12], old)
        assert given.ignore.tolist() == [False] * 10 + [True] * 2 + [False] * (count - 12)
        new, classes = given.boxes[12:], given.classes[12:]
        assert given.classes.dtype == np.int64
        assert given.classes[:12].tolist() == list(range(12))
        assert set(classes.tolist()) <= set(range(10))  # class i is object i; regions are not copied
        assert len(new) <= 8
        assert (new >= 0).all()
        assert (new <= 200).all()
        assert overlap(new, old).max(initial=0) == 0
        assert (overlap(new, new) > 0).sum() == len(new)  # each with itself only
        for box, index in zip(new.astype(int), classes, strict=True):
            x1, y1, x2, y2 = old[index].astype(int)
            core = given.image[box[1] : box[3], box[0] : box[2]]
            assert any(np.array_equal(core, view) for view in views(source[y1:y2, x1:x2]))
        for x1, y1, x2, y2 in old.astype(int):  # margins do not reach into objects and regions
            assert np.array_equal(given.image[y1:y2, x1:x2], source[y1:y2, x1:x2])
        pasted += len(new)
    assert pasted > 2 * len(SEEDS)


def test_ground_far_from_copies_is_untouched():
    for seed in range(20):
        np.random.seed(seed)
        given = crowded(seed)
        source = given.image
        BoxCopyPaste(copies=3, prob=1.0, margin=0.25)(given)
        near = np.zeros((200, 200), bool)
        for x1, y1, x2, y2 in given.boxes[12:].astype(int):
            reach = max(2, round(0.25 * max(x2 - x1, y2 - y1)))
            near[max(0, y1 - reach) : y2 + reach, max(0, x1 - reach) : x2 + reach] = True
        assert np.array_equal(given.image[~near], source[~near])


def test_copies_fade_into_the_ground():
    """On flat ground of another level the margin lies strictly between both; nothing jumps at the patch's edge."""
    image = np.full((100, 100, 3), 100, np.uint8)
    image[40:60, 40:60] = 200
    given = aug_input(image, [(45, 45, 55, 55)])
    for seed in range(40):
        np.random.seed(seed)
        result = aug_input(image, given.boxes)
        BoxCopyPaste(copies=1, prob=1.0, margin=0.4)(result)
        for x1, y1, x2, y2 in result.boxes[1:].astype(int):
            assert (result.image[y1:y2, x1:x2] == 200).all()
            if x1 > 10 and x2 < 36:  # on the flat ground
                left = result.image[(y1 + y2) // 2, x1 - 4 : x1, 0].astype(int)
                # a margin of 4 px: weights (0.5, 1.5, 2.5, 3.5) / 4
                assert left.tolist() == [113, 138, 163, 188]


@pytest.mark.parametrize(
    ("boxes", "ignore", "settings"),
    [
        ([], [], {}),
        ([(10, 10, 50, 50)], [], {}),  # larger than max_side
        ([(10, 10, 18, 18)], [0], {}),
        ([(10, 10, 10.5, 18)], [], {}),  # thinner than a pixel
        ([(10, 10, 18, 18)], [], {"prob": 0.0}),
        ([(10, 10, 18, 18), (0, 0, 64, 64)], [1], {}),  # no free place
    ],
)
def test_nothing_to_copy_changes_nothing(boxes, ignore, settings):
    for seed in range(10):
        np.random.seed(seed)
        image = noise(64, 64)
        given = aug_input(image, boxes, ignore)
        transform = BoxCopyPaste(**{"prob": 1.0, **settings})(given)
        assert isinstance(transform, T.NoOpTransform)
        assert given.image is image
        assert np.array_equal(image, noise(64, 64))
        assert len(given.boxes) == len(given.classes) == len(given.ignore) == len(boxes)


def test_copies_of_objects_at_the_edge_are_whole():
    edges = [(0, 0, 6, 6), (194, 0, 200, 5), (0, 190, 4, 200), (195, 195, 200, 200)]
    for seed in SEEDS:
        np.random.seed(seed)
        given = aug_input(noise(200, 200), edges)
        BoxCopyPaste(prob=1.0)(given)
        for box, index in zip(given.boxes[4:].astype(int), given.classes[4:], strict=True):
            x1, y1, x2, y2 = edges[index]
            core = given.image[box[1] : box[3], box[0] : box[2]]
            assert any(np.array_equal(core, view) for view in views(noise(200, 200)[y1:y2, x1:x2]))


@pytest.mark.parametrize(
    "outside",
    [(-30, 20, -20, 30), (20, -30, 30, -20), (210, 20, 220, 30), (-6, 20, 4, 30), (195, 195, 205, 205)],
)
def test_objects_that_a_crop_has_cut_are_not_copied(outside):
    """After a crop, boxes may lie partly or wholly outside; a copy would be labelled where no object is."""
    for seed in SEEDS:
        np.random.seed(seed)
        given = aug_input(noise(200, 200), [outside, (100, 100, 150, 150)])
        BoxCopyPaste(prob=1.0)(given)
        assert len(given.boxes) == 2


# --- together


def pipeline() -> list[T.Augmentation]:
    return [
        BoxCopyPaste(copies=4, prob=0.8),
        GuardedScale((0.7, 1.5)),
        ObjectCrop((96, 96), object_prob=0.9),
        T.RandomFlip(),
        RandomQuarterTurn(),
        Photometric(),
    ]


def write(folder, seed: int) -> dict:
    scene = crowded(seed)
    path = folder / f"{seed}.png"
    cv2.imwrite(str(path), scene.image[:, :, ::-1])
    annotations = [
        {"bbox": [x1, y1, x2 - x1, y2 - y1], "bbox_mode": 1, "category_id": i % 3, "iscrowd": int(scene.ignore[i])}
        for i, (x1, y1, x2, y2) in enumerate(scene.boxes.tolist())
    ]
    return {"file_name": str(path), "image_id": seed, "height": 200, "width": 200, "annotations": annotations}


@pytest.mark.parametrize("cached", [False, True])
def test_all_of_them_work_in_one_pipeline(tmp_path, cached):
    records = [write(tmp_path, seed) for seed in range(3)]
    records.append({**records[0], "image_id": 9, "annotations": []})
    mapper = TinyDatasetMapper(
        is_train=True, augmentations=pipeline(), cache_dir=tmp_path / "cache" if cached else None
    )
    objects = 0
    for seed in range(30):
        np.random.seed(seed)
        result = mapper(records[seed % 4])
        instances = result["instances"]
        height, width = result["image"].shape[1:]
        assert max(height, width) <= 96
        boxes = instances.gt_boxes.tensor
        assert len(boxes) == len(instances.gt_classes) == len(instances.gt_ignore)
        if len(boxes):
            assert boxes.min() >= 0
            assert boxes[:, ::2].max() <= width
            assert boxes[:, 1::2].max() <= height
        objects += int((~instances.gt_ignore).sum())
    assert objects > 50


@pytest.mark.parametrize("workers", [0, 2])
def test_the_pipeline_is_a_function_of_seed_and_iteration(tmp_path, workers):
    records = [write(tmp_path, seed) for seed in range(4)]
    mapper = TinyDatasetMapper(is_train=True, augmentations=pipeline())

    def batches(start, seed=1):
        loader = ResumableLoader(records, mapper, 2, workers, seed)
        return [
            [(d["image_id"], d["image"].numpy().tobytes(), d["instances"].gt_boxes.tensor.tolist()) for d in batch]
            for batch in itertools.islice(loader.iter_from(start), 4)
        ]

    whole = batches(0)
    assert batches(2)[:2] == whole[2:]
    assert batches(0, seed=2) != whole


@pytest.mark.parametrize(
    "augmentation",
    [BoxCopyPaste(prob=1.0), GuardedScale(), Photometric(), RandomQuarterTurn(), ObjectCrop((64, 64))],
    ids=lambda a: type(a).__name__,
)
def test_the_numpy_seed_decides_and_the_text_says_what_it_is(augmentation):
    def run():
        np.random.seed(11)
        given = crowded(1)
        augmentation(given)
        return given

    first, again = run(), run()
    assert np.array_equal(first.image, again.image)
    assert np.array_equal(first.boxes, again.boxes)
    assert type(augmentation).__name__ in repr(augmentation)


@pytest.mark.parametrize(
    ("kind", "settings"),
    [
        (GuardedScale, {"scales": (0.5,)}),
        (GuardedScale, {"scales": (2.0, 1.0)}),
        (GuardedScale, {"scales": (0.0, 1.0)}),
        (GuardedScale, {"min_object": -1.0}),
        (GuardedScale, {"max_side": 0}),
        (Photometric, {"brightness": 1.1}),
        (Photometric, {"contrast": -0.1}),
        (Photometric, {"saturation": 2.0}),
        (Photometric, {"gain": float("nan")}),
        (Photometric, {"gamma": -0.1}),
        (Photometric, {"hue": 181.0}),
        (Photometric, {"prob": 2.0}),
        (BoxCopyPaste, {"copies": 0}),
        (BoxCopyPaste, {"max_side": 0.0}),
        (BoxCopyPaste, {"margin": -0.1}),
        (BoxCopyPaste, {"tries": 0}),
        (BoxCopyPaste, {"prob": -0.1}),
        (ObjectCrop, {"size": (8,)}),
        (ObjectCrop, {"size": (8, 8), "object_prob": 1.5}),
    ],
)
def test_bad_settings_are_refused(kind, settings):
    with pytest.raises(ValueError, match=kind.__name__):
        kind(**settings)
