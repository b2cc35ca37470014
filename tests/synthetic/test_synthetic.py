from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest

from d2tiny.data.datasets.categories import AITOD_CLASSES
from d2tiny.synthetic import Scene, objects, render_scene, write_dataset
from d2tiny.synthetic.canvas import SUPERSAMPLE, Canvas
from d2tiny.synthetic.themes import THEMES, Theme
from d2tiny.utils.errors import DatasetError

CYCLE = len(THEMES)


@pytest.fixture(scope="module")
def scenes() -> list[Scene]:
    return [render_scene(seed) for seed in range(2 * CYCLE)]


def assert_valid(scene: Scene, height: int, width: int) -> None:
    assert scene.image.shape == (height, width, 3) and scene.image.dtype == np.uint8
    assert scene.boxes.shape == (len(scene.classes), 4) and scene.boxes.dtype == np.float32
    assert scene.classes.dtype == np.int64
    assert ((scene.classes >= 0) & (scene.classes < len(AITOD_CLASSES))).all()
    x0, y0, x1, y1 = scene.boxes.T
    assert (x0 >= 0).all() and (y0 >= 0).all() and (x1 <= width).all() and (y1 <= height).all()
    assert (x1 - x0 >= 1.999).all() and (y1 - y0 >= 1.999).all()


# ---- scenes --------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(0, CYCLE, 5))
def test_same_arguments_same_bytes(seed: int) -> None:
    np.random.seed(seed + 1)  # the global generator must not matter
    first, second = render_scene(seed), render_scene(seed)
    assert first.image.tobytes() == second.image.tobytes()
    assert first.boxes.tobytes() == second.boxes.tobytes()
    assert first.classes.tobytes() == second.classes.tobytes()


def test_seeds_differ(scenes: list[Scene]) -> None:
    assert len({scene.image.tobytes() for scene in scenes}) == len(scenes)


def test_boxes_are_valid_in_every_theme(scenes: list[Scene]) -> None:
    for scene in scenes:
        assert_valid(scene, 256, 256)


def test_every_class_appears_within_one_cycle_of_themes(scenes: list[Scene]) -> None:
    for cycle in (scenes[:CYCLE], scenes[CYCLE:]):
        classes = set(np.concatenate([scene.classes for scene in cycle]).tolist())
        assert classes == set(range(len(AITOD_CLASSES)))


def test_objects_are_tiny(scenes: list[Scene]) -> None:
    boxes = np.concatenate([scene.boxes for scene in scenes])
    classes = np.concatenate([scene.classes for scene in scenes])
    size = np.sqrt((boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1]))
    assert 9.0 < np.median(size) < 13.0
    assert (size < 16).mean() >= 0.8
    assert size[classes != AITOD_CLASSES.index("bridge")].max() <= 34
    assert size.max() < 80


def test_counts_vary_from_none_to_crowded(scenes: list[Scene]) -> None:
    counts = np.array([len(scene.boxes) for scene in scenes])
    assert 10 <= np.median(counts) <= 60
    assert counts.min() <= 3 and counts.max() > 80


def test_objects_stand_out_from_their_surroundings(scenes: list[Scene]) -> None:
    """Pixels of a box vary clearly more than sensor noise (below 0.014 * 255 = 3.6) alone."""
    spread = []
    for scene in scenes:
        gray = scene.image.astype(np.float32).mean(2)
        for x0, y0, x1, y1 in scene.boxes:
            rows = slice(max(int(y0) - 2, 0), int(np.ceil(y1)) + 2)
            columns = slice(max(int(x0) - 2, 0), int(np.ceil(x1)) + 2)
            spread.append(np.ptp(gray[rows, columns]))
    assert np.quantile(spread, 0.01) > 25


@pytest.mark.parametrize("theme", sorted(set(THEMES), key=lambda theme: theme.__name__))
def test_density_zero_is_an_empty_landscape(theme: Theme) -> None:
    for seed in range(2):
        canvas = Canvas(np.random.default_rng(seed), 96, 128, 0.0)
        theme(canvas)
        assert canvas.boxes == [] and canvas.classes == []
        assert canvas.render().std() > 2


def test_density_adds_objects() -> None:
    counts = [sum(len(render_scene(s, density=d).boxes) for s in range(12)) for d in (0.3, 1.0, 2.0)]
    assert 0 < counts[0] < counts[1] < counts[2]


@pytest.mark.parametrize(("height", "width"), [(97, 203), (203, 97), (32, 32), (33, 400)])
def test_odd_sizes(height: int, width: int) -> None:
    for seed in range(CYCLE):
        assert_valid(render_scene(seed, height=height, width=width), height, width)


@pytest.mark.parametrize(
    ("seed", "options", "message"),
    [
        (-1, {}, "seed=-1"),
        (0, {"height": 20}, "height=20"),
        (0, {"density": -0.1}, "density=-0.1"),
    ],
)
def test_bad_arguments(seed: int, options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        render_scene(seed, **options)


# ---- single objects ------------------------------------------------------------------------------

Draw = Callable[[Canvas, np.ndarray, float], bool]
DRAW: dict[str, Draw] = {
    "car": lambda c, p, a: objects.draw_car(c, p, a, 12.0),
    "van": lambda c, p, a: objects.draw_car(c, p, a, 12.0, van=True),
    "truck": lambda c, p, a: objects.draw_truck(c, p, a, 20.0, 6.0),
    "airplane": lambda c, p, a: objects.draw_airplane(c, p, a, 20.0),
    "light airplane": lambda c, p, a: objects.draw_airplane(c, p, a, 11.0, light=True),
    "boat": lambda c, p, a: objects.draw_ship(c, p, a, 11.0, moving=True),
    "freighter": lambda c, p, a: objects.draw_ship(c, p, a, 26.0),
    "tank": lambda c, p, a: objects.draw_storage_tank(c, p, 12.0, (0.9, 0.9, 0.9), floating=a > 1),
    "pool": lambda c, p, a: objects.draw_swimming_pool(c, p, a, 12.0),
    "person": lambda c, p, a: objects.draw_person(c, p, a, 4.5),
    "wind-mill": lambda c, p, a: objects.draw_wind_mill(c, p, a, 13.0),
    "bridge": lambda c, p, a: objects.draw_bridge(c, p, a, 24.0, 10.0, (0.4, 0.4, 0.4)),
}


def blank(seed: int) -> Canvas:
    canvas = Canvas(np.random.default_rng(seed), 64, 64, 1.0)
    canvas.ground[:] = (0.4, 0.45, 0.35)
    return canvas


@pytest.mark.parametrize("name", DRAW)
def test_box_is_tight(name: str) -> None:
    """The box equals the extent of the drawn pixels, without shadow, to a quarter px plus rounding.

    The fine grid has 4 samples per px, and OpenCV also fills samples that a border passes through:
    at most 1/4 px beyond. Sub-pixel tips of blades and bows may miss a sample: 1/2 px.
    """
    for seed in range(12):
        canvas = blank(seed)
        centre = canvas.rng.uniform(29, 35, 2)
        assert DRAW[name](canvas, centre, seed * 0.55)
        rows, columns = np.nonzero(canvas.raised[..., 3])
        drawn = np.array([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1], float) / SUPERSAMPLE
        inwards = (drawn - np.array(canvas.boxes[0])) * (1, 1, -1, -1)
        assert inwards.min() > -0.3, (seed, inwards)
        assert inwards.max() < 0.5, (seed, inwards)


@pytest.mark.parametrize("name", DRAW)
def test_object_changes_the_picture_inside_its_box(name: str) -> None:
    canvas = blank(3)
    canvas.sun[:] = (0.0, 1.0)
    DRAW[name](canvas, np.array([32.0, 32.0]), 0.7)
    image = canvas.render().astype(int)
    x0, y0, x1, y1 = np.round(canvas.boxes[0]).astype(int)
    background = np.median(image[:, :8].reshape(-1, 3), 0)
    changed = np.abs(image - background).max(2) > 25
    assert changed[y0:y1, x0:x1].mean() > 0.2
    # Shadows fall downwards here, so above the box nothing has changed.
    assert changed[: y0 - 3].mean() < 0.02


def test_overlapping_object_is_refused() -> None:
    canvas = blank(0)
    assert objects.draw_car(canvas, np.array([30.0, 30.0]), 0.0, 12.0)
    assert not objects.draw_car(canvas, np.array([33.0, 31.0]), 0.3, 12.0)
    assert len(canvas.boxes) == 1


@pytest.mark.parametrize(("x", "drawn"), [(-2.0, False), (0.5, False), (1.5, True), (6.0, True)])
def test_border_rule_keeps_objects_that_are_mostly_inside(x: float, drawn: bool) -> None:
    """A tank of 10 px centred at x shows (x + 5) / 10 of its box: 0.3, 0.55, 0.65, 1."""
    canvas = blank(0)
    centre = np.array([x, 32.0])
    paint = (0.9, 0.9, 0.9)
    assert objects.draw_storage_tank(canvas, centre, 10.0, paint, floating=False) is drawn
    assert len(canvas.boxes) == int(drawn)
    assert bool(canvas.raised.any()) is drawn
    if drawn:
        assert canvas.boxes[0][0] == max(x - 5, 0)


# ---- on disk -------------------------------------------------------------------------------------

LAYOUTS = {
    "flat": ("instances_train.json", "train", "instances_val.json", "val"),
    "aitod": (
        "annotations/aitod_train_v1.json",
        "images/train",
        "annotations/aitod_val_v1.json",
        "images/val",
    ),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_layout_and_fields(layout: str, tmp_path: Path) -> None:
    paths = write_dataset(tmp_path, train=3, val=2, height=64, width=80, seed=4, layout=layout)
    expected = [tmp_path / part for part in LAYOUTS[layout]]
    keys = ["train_json", "train_images", "val_json", "val_images"]
    assert paths == dict(zip(keys, expected, strict=True))
    assert not list(tmp_path.rglob("*.tmp"))
    for split, count in (("train", 3), ("val", 2)):
        content = json.loads(paths[f"{split}_json"].read_text())
        names = [(c["id"], c["name"]) for c in content["categories"]]
        assert names == list(enumerate(AITOD_CLASSES, start=1))
        assert len(content["images"]) == count
        for record in content["images"]:
            image = cv2.imread(str(paths[f"{split}_images"] / record["file_name"]))
            assert image.shape == (record["height"], record["width"], 3) == (64, 80, 3)
        known = {record["id"] for record in content["images"]}
        assert [a["id"] for a in content["annotations"]] == list(range(len(content["annotations"])))
        for annotation in content["annotations"]:
            x, y, w, h = annotation["bbox"]
            assert annotation["image_id"] in known and 1 <= annotation["category_id"] <= 8
            assert annotation["area"] == pytest.approx(w * h)
            assert annotation["iscrowd"] == annotation["ignore"] == 0
            assert x >= 0 and y >= 0 and x + w <= 80 and y + h <= 64


def test_pictures_and_boxes_on_disk_are_the_rendered_ones(tmp_path: Path) -> None:
    paths = write_dataset(tmp_path, train=2, val=0, height=96, width=96, seed=1)
    content = json.loads(paths["train_json"].read_text())
    for k, record in enumerate(content["images"]):
        scene = render_scene(2_000_000 + k, height=96, width=96)  # (2 * seed + 0) * 1e6 + k
        stored = cv2.imread(str(paths["train_images"] / record["file_name"]))[..., ::-1]
        np.testing.assert_array_equal(stored, scene.image)
        mine = [a["bbox"] for a in content["annotations"] if a["image_id"] == record["id"]]
        xywh = scene.boxes.copy()
        xywh[:, 2:] -= xywh[:, :2]
        np.testing.assert_allclose(np.array(mine).reshape(-1, 4), xywh, atol=1e-4)


def test_complete_folder_is_reused_and_other_arguments_redraw(tmp_path: Path) -> None:
    paths = write_dataset(tmp_path, train=3, val=1, height=48, width=48)
    first = paths["train_images"] / "synthetic_000000.png"
    first.write_bytes(b"touched")
    write_dataset(tmp_path, train=3, val=1, height=48, width=48)
    assert first.read_bytes() == b"touched"  # reused
    write_dataset(tmp_path, train=2, val=1, height=48, width=48)
    assert first.read_bytes() != b"touched"  # redrawn, and the third picture is gone
    assert len(list(paths["train_images"].glob("*.png"))) == 2


def test_incomplete_folder_is_redrawn(tmp_path: Path) -> None:
    paths = write_dataset(tmp_path, train=2, val=1, height=48, width=48)
    lost = paths["val_images"] / "synthetic_000000.png"
    lost.unlink()
    write_dataset(tmp_path, train=2, val=1, height=48, width=48)
    assert lost.is_file()


def test_foreign_annotations_are_not_overwritten(tmp_path: Path) -> None:
    foreign = tmp_path / "annotations" / "aitod_train_v1.json"
    foreign.parent.mkdir()
    foreign.write_text("{}")
    with pytest.raises(DatasetError, match=r"aitod_train_v1\.json"):
        write_dataset(tmp_path, train=1, val=1, height=48, width=48, layout="aitod")
    assert foreign.read_text() == "{}"


def test_unknown_layout_lists_the_valid_ones(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"aitod.*flat"):
        write_dataset(tmp_path, train=1, val=1, layout="voc")  # type: ignore[arg-type]
