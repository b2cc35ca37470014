"""The COCO core: one rule for boxes, one reader for two views, one writer, and imports that stay light."""

from __future__ import annotations

import gc
import json
import math
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog

from d2tiny.data.coco import reader
from d2tiny.data.coco.arrays import load_ground_truth
from d2tiny.data.coco.boxes import (
    BOX_PROBLEMS,
    box_problem,
    box_xyxy_to_xywh,
    clip_box,
    clip_boxes,
    overhang,
    read_box,
    xywh_to_xyxy,
    xyxy_to_xywh,
)
from d2tiny.data.coco.findings import Findings
from d2tiny.data.coco.reader import coco_from_dict, load_coco
from d2tiny.data.coco.writer import write_coco, write_coco_results
from d2tiny.data.datasets import DatasetSource, class_names, load_coco_like, register_coco_like
from d2tiny.utils.errors import ConfigError, DatasetError
from d2tiny.utils.memory import paused_gc
from tests.helpers import ROOT

NAN, INF = math.nan, math.inf


def random_boxes(count=2000, seed=0):
    """XYWH boxes in, over, at and outside the border of 100×80 images, with sides of 0 and less, NaN and infinity."""
    rng = np.random.default_rng(seed)
    boxes = np.concatenate((rng.uniform(-30, 130, (count, 2)), rng.uniform(-3, 40, (count, 2))), axis=1)
    boxes[::3] = boxes[::3].round()
    boxes[rng.random(boxes.shape) < 0.01] = NAN
    boxes[rng.random(boxes.shape) < 0.01] = INF
    return boxes


def test_conversions_are_inverse_and_keep_the_dtype():
    boxes = np.random.default_rng(0).integers(0, 50, (4, 5, 4))
    for dtype in (np.int64, np.float32, np.float64):
        corners = xywh_to_xyxy(boxes.astype(dtype))
        assert corners.dtype == dtype
        assert (corners[..., 2:] == boxes[..., :2] + boxes[..., 2:]).all()
        assert (xyxy_to_xywh(corners) == boxes).all()
    assert box_xyxy_to_xywh((1, 2.5, 4, 8)) == (1, 2.5, 3, 5.5)
    assert xywh_to_xyxy(np.zeros((0, 4))).shape == (0, 4)


def test_one_box_and_arrays_follow_the_same_rule():
    """Bit for bit: training clips arrays, checks and converters single boxes."""
    boxes, size = random_boxes(), (100, 80)
    clipped, problems = clip_boxes(boxes, np.broadcast_to(size, (len(boxes), 2)))
    for box, array, problem in zip(boxes.tolist(), clipped.tolist(), problems.tolist(), strict=True):
        expected = clip_box(box, size)
        assert expected == (array if problem < 0 else BOX_PROBLEMS[problem])
        assert box_problem(box, size) == (None if problem < 0 else expected)
    assert {1, 2, 3, -1} == set(problems.tolist())


@pytest.mark.parametrize(
    ("box", "expected"),
    [
        ([1, 2, 3, 4], [1, 2, 3, 4]),
        ([-2, -3, 10, 10], [0, 0, 8, 7]),
        ([95, 70, 10, 20], [95, 70, 5, 10]),
        ([-5, -5, 200, 200], [0, 0, 100, 80]),
        ([100, 5, 3, 3], "boxes outside their image"),
        ([-3, 5, 3, 3], "boxes outside their image"),
        ([5, 5, 0, 3], "boxes without area"),
        ([500, 5, 3, -1], "boxes without area"),
        ([NAN, 5, 3, 0], "boxes with NaN or infinity"),
        ([5, 5, INF, 3], "boxes with NaN or infinity"),
        ([64, 5, 1e-15, 3], "boxes without area"),  # the corners are equal in float64
        ([100 - 1e-9, 5, 3, 3], "boxes outside their image"),
        ([5, 5, 1e300, 3], "boxes larger than any image"),
    ],
)
def test_the_box_rule(box, expected):
    assert clip_box(box, (100, 80)) == expected


def test_values_of_bbox():
    assert read_box(["1", 2, 3.5, np.float32(4)]) == read_box(np.array([1, 2, 3.5, 4])) == [1, 2, 3.5, 4]
    assert read_box({"3": 8, "0": 5, "1": 6, "2": 7}) == [5, 6, 7, 8]  # an array of JavaScript
    bad = (None, 5, "1234567", "1234", [1, 2, 3], [1, 2, 3, 4, 5], [1, 2, 3, None], [1, 2, 3, True], ["1_0", 2, 3, 4])
    for value in (*bad, {"x": 1, "y": 2, "width": 3, "height": 4}, {"0": 1}, [[1], 2, 3, 4]):
        assert read_box(value) == BOX_PROBLEMS[0]
    assert read_box([1, 2, 3, NAN]) == BOX_PROBLEMS[1]
    assert read_box([1, 2, 3, 1e300]) == BOX_PROBLEMS[4]


def test_overhang_is_the_largest_distance_over_a_border():
    assert overhang([10, 10, 5, 5], (100, 80)) < 0
    assert overhang([-2, -3, 5, 5], (100, 80)) == 3
    assert overhang([97, 10, 7, 5], (100, 80)) == 4


def dataset(count=300, seed=1):
    """A usual COCO dict: ids with gaps and out of order, crowds, boxes over the border, missing areas, regions."""
    rng = np.random.default_rng(seed)
    ids = rng.permutation(40)[:20].tolist()
    boxes = np.concatenate((rng.uniform(-5, 95, (count, 2)), rng.uniform(0, 20, (count, 2))), axis=1).round(1)
    annotations = [
        {
            "id": i,
            "image_id": ids[int(rng.integers(20))],
            "category_id": (7, 3, 12)[int(rng.integers(3))],
            "bbox": box,
            "iscrowd": int(rng.random() < 0.1),
            "ignore": int(rng.random() < 0.1),
            **({"area": box[2] * box[3] / 2} if i % 2 else {}),
        }
        for i, box in enumerate(boxes.tolist())
    ]
    images = [{"id": i, "file_name": f"{i}.png", "width": 100, "height": 80} for i in ids]
    images[3]["ignored_regions"] = [[1, 2, 3, 4]]
    images[5]["ignored_boxes"] = [[5, 6, 7, 8], [1, 1, 2, 2]]
    categories = [{"id": 7, "name": "ship"}, {"id": 3, "name": " car"}, {"id": 12, "name": "bus"}]
    return {"images": images, "annotations": annotations, "categories": categories}


def write(path, data):
    path.write_text(json.dumps(data))
    return path


def source_of(path):
    (path.parent / "images").mkdir(exist_ok=True)
    return DatasetSource(f"core_{path.parent.name}", (str(path),), (str(path.parent / "images"),))


def same(a, b):
    names = ("image", "category", "boxes", "area", "ignore")
    arrays = all(np.array_equal(getattr(a, n), getattr(b, n), equal_nan=n == "area") for n in names)
    return arrays and list(a.images) == list(b.images) and list(a.categories) == list(b.categories)


def test_the_lenient_way_reads_the_usual_file_like_the_fast_way(tmp_path):
    path = write(tmp_path / "x.json", dataset())
    fast, lenient = load_coco(path), reader._load_leniently(path)
    assert same(fast, lenient)
    assert same(fast, coco_from_dict(dataset()))
    assert fast.annotation_ids == lenient.annotation_ids == list(range(300))
    assert fast.listed == lenient.listed == 300
    assert not lenient.findings


@pytest.mark.parametrize("odd", [False, True])
def test_training_and_evaluation_see_the_same_objects(tmp_path, odd):
    """Up to what training alone does: clip, and leave out boxes without area or outside."""
    data = dataset()
    if odd:  # one id as text makes the whole file odd
        data["annotations"].append({"image_id": "none", "category_id": 3, "bbox": [1, 2, 3, 4]})
    path = write(tmp_path / "x.json", data)
    records, truth = load_coco_like(source_of(path)), load_ground_truth(path)
    sizes = truth.sizes[truth.image]
    boxes, problems = clip_boxes(truth.boxes, sizes)
    by_id = {record["image_id"]: record["annotations"] for record in records}
    assert [record["image_id"] for record in records] == [image["id"] for image in data["images"]]
    for index, image_id in enumerate(truth.image_ids.tolist()):
        here = np.flatnonzero((truth.image == index) & (problems < 0))
        regions = truth.regions[truth.region_image == index].tolist()
        expected = [
            *((box, 0, 1) for box in regions),
            *zip(boxes[here].tolist(), truth.category[here].tolist(), truth.ignore[here].tolist(), strict=True),
        ]
        assert [(a["bbox"], a["category_id"], a["iscrowd"]) for a in by_id[image_id]] == expected


def test_findings_are_those_of_both_views(tmp_path, caplog):
    data = dataset(3)
    data["images"].append("text")
    data["annotations"] += [
        {"id": 8, "image_id": "x", "category_id": 3, "bbox": [1, 2, 3, 4]},
        {"id": 9, "image_id": data["images"][0]["id"], "category_id": 3, "bbox": [1, 2, 3]},
        7,
    ]
    path = write(tmp_path / "x.json", data)
    load_coco_like(source_of(path))
    load_ground_truth(path)
    for record in caplog.records[-2:]:
        for text in (
            "2 entries that are no objects",
            "1 annotations of an unknown image (first: annotation id 8 of image id x)",
            f"1 boxes that are not four numbers (first: annotation id 9 of image id {data['images'][0]['id']}, bbox",
        ):
            assert text in record.getMessage()
    assert load_coco(path).listed == 6


def test_a_file_is_decoded_once_for_all(tmp_path, monkeypatch):
    path, decoded = write(tmp_path / "x.json", dataset()), []
    real = Path.read_bytes
    monkeypatch.setattr(Path, "read_bytes", lambda self: decoded.append(self) or real(self))
    source = source_of(path)
    load_coco_like(source)
    load_ground_truth(path)
    load_coco_like(source)
    assert decoded == [path]


def test_a_changed_file_is_read_again(tmp_path):
    path = write(tmp_path / "x.json", dataset(10))
    state = path.stat()
    assert len(load_ground_truth(path)) == 10
    write(path, dataset(11))
    assert len(load_ground_truth(path)) == 11
    data = dataset(11)
    data["annotations"][0]["bbox"][0] = 77.7  # as long as before, but later
    write(path, data)
    os.utime(path, ns=(state.st_atime_ns, state.st_mtime_ns + 1_000_000))
    assert load_ground_truth(path).boxes[0, 0] == 77.7
    path.unlink()
    with pytest.raises(DatasetError, match=r"x\.json: no such file"):
        load_ground_truth(path)


def test_views_are_copies(tmp_path):
    path = write(tmp_path / "x.json", dataset(seed=4))
    truth, records = load_ground_truth(path), load_coco_like(source_of(path))
    for name in ("image", "category", "boxes", "area", "ignore"):
        getattr(truth, name)[:] = 1
    records[0]["annotations"].clear()
    assert same(load_coco(path), reader._load_leniently(path))


def test_findings_of_a_file_do_not_grow(tmp_path):
    data = dataset(20)
    data["annotations"].append({"image_id": "x"})
    data["annotations"].append({"image_id": data["images"][0]["id"], "category_id": 3, "bbox": [500, 1, 2, 3]})
    path = write(tmp_path / "x.json", data)
    for _ in range(2):
        load_coco_like(source_of(path))
    assert (
        str(load_coco(path).findings) == "1 annotations of an unknown image (first: annotation id None of image id x)"
    )


def test_copied_findings_are_independent():
    first = Findings()
    first.add("a", "x")
    second = first.copy()
    second.add("a", "y")
    second.add("b", "z")
    assert (str(first), second.count("warning")) == ("1 a (first: x)", 3)


def test_text_ids_in_messages_are_those_of_the_file(tmp_path, caplog):
    data = {
        "images": [{"id": i, "file_name": f"{i}.png", "width": 9, "height": 9} for i in ("P1", "P2")],
        "categories": [{"id": 1, "name": "a"}],
        "annotations": [{"id": i, "image_id": "P2", "category_id": 1, "bbox": [50 * i, 1, 2, 3]} for i in range(2)],
    }
    load_coco_like(source_of(write(tmp_path / "x.json", data)))
    assert "annotation id 1 of image id P2, bbox [50, 1, 2, 3]" in caplog.text


def test_class_names_need_no_images(tmp_path):
    path = write(tmp_path / "x.json", dataset())
    name = f"names_{tmp_path.name}"
    register_coco_like(name, path, tmp_path / "none")
    assert class_names(name) == ["car", "ship", "bus"]
    register_coco_like(f"{name}_fixed", tmp_path / "missing.json", tmp_path, classes=["a", "b"])
    assert class_names(f"{name}_fixed") == ["a", "b"]
    DatasetCatalog.register(f"{name}_others", list)
    assert class_names(f"{name}_others") == []
    MetadataCatalog.get(f"{name}_others").thing_classes = ["x"]
    assert class_names(f"{name}_others") == ["x"]


def test_files_are_written_completely_or_not_at_all(tmp_path):
    path = tmp_path / "new" / "x.json"
    write_coco({"images": [], "annotations": [], "categories": []}, path)
    before = path.read_bytes()
    with pytest.raises(ValueError, match="JSON"):
        write_coco({"images": [NAN]}, path)

    def failing():
        yield [{"score": 1}]
        raise DatasetError("stop")

    with pytest.raises(DatasetError, match="stop"):
        write_coco_results(failing(), path)
    assert path.read_bytes() == before
    assert [file.name for file in path.parent.iterdir()] == ["x.json"]
    with pytest.raises(ConfigError, match="is a folder"):
        write_coco({}, path.parent)


@pytest.mark.parametrize("blocks", [[], [[{"a": 1}]], [[{"a": 1}, {"a": 2}], [{"a": 3}]]])
def test_results_are_one_list(tmp_path, blocks):
    write_coco_results(blocks, tmp_path / "x.json")
    assert json.loads((tmp_path / "x.json").read_text()) == [entry for block in blocks for entry in block]


def test_paused_gc_is_restored():
    for enabled in (True, False):
        (gc.enable if enabled else gc.disable)()
        try:
            with pytest.raises(KeyError), paused_gc():
                assert not gc.isenabled()
                raise KeyError
            assert gc.isenabled() == enabled
        finally:
            gc.enable()


CORE = (
    "arrays", "boxes", "check", "check_entries", "document", "entries", "findings", "reader", "source", "values",
    "writer",
)  # fmt: skip
LIGHT = [
    *(f"data.coco.{name}" for name in CORE),
    *(f"data.tools.{name}" for name in ("anchors", "converters", "statistics", "tiling")),
    *(f"data.loading.{name}" for name in ("headers", "images", "raster")),
    "data.datasets",
    "data.datasets.categories",
    "evaluation.detections",
]


def test_light_modules_import_neither_torch_nor_detectron2_nor_matplotlib():
    """The three package files, which may import more, are left out."""
    code = """
import importlib, sys, types
for name in ("d2tiny", "d2tiny.data", "d2tiny.evaluation"):
    sys.modules[name] = module = types.ModuleType(name)
    module.__path__ = [sys.argv[1] + "/" + name.replace(".", "/")]
for name in sys.argv[2:]:
    importlib.import_module("d2tiny." + name)
    heavy = {"torch", "detectron2", "matplotlib"} & set(sys.modules)
    assert not heavy, f"{name} imports {heavy}"
"""
    result = subprocess.run(
        [sys.executable, "-c", code, str(ROOT), *LIGHT], capture_output=True, text=True, timeout=120
    )
    assert result.returncode == 0, result.stderr
