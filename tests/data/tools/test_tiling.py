"""Checks of tiles: pixels, boxes, what is kept, what is resumed, how much memory it takes."""

from __future__ import annotations

import io
import itertools
import json
import logging
import os
import struct
import subprocess
import sys
import threading
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from d2tiny.cli import main
from d2tiny.data.coco.arrays import load_ground_truth
from d2tiny.data.coco.source import relative_name
from d2tiny.data.loading.images import read_image
from d2tiny.data.loading.raster import RasterReader
from d2tiny.data.tools.tiling import TileSettings, tile_dataset, tile_starts
from d2tiny.utils.errors import ConfigError, DatasetError
from tests.helpers import ROOT

HALVES = TileSettings(size=32, overlap=0)
SMALL = TileSettings(size=32, overlap=8)


def noise(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 255, (height, width, 3), dtype=np.uint8)


def save(path: Path, pixels: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


def write(root: Path, images: dict[str, tuple[int, int]], annotations=(), **keys) -> Path:
    """Images by name → (height, width), ids from 1; an annotation is a box of image 1 or a dict."""
    entries = []
    for i, (name, (height, width)) in enumerate(images.items(), start=1):
        save(root / "images" / name.replace("\\", "/"), noise(height, width, i))
        entries.append({"id": i, "file_name": name, "height": height, "width": width, **(keys if i == 1 else {})})
    whole = []
    for i, a in enumerate(annotations):
        extra = a if isinstance(a, dict) else {"bbox": list(a)}
        whole.append({"id": 100 + i, "image_id": 1, "category_id": 5, "iscrowd": 0, **extra})
    data = {"images": entries, "annotations": whole, "categories": [{"id": 5, "name": "car"}, {"id": 9, "name": "van"}]}
    (root / "a.json").write_text(json.dumps(data))
    return root


def tile(root: Path, settings: TileSettings, out: str = "out", jobs: int = 1) -> dict:
    return tile_dataset(root / "a.json", root / "images", root / out, settings, jobs=jobs, progress=False)


def by_tile(data: dict) -> dict[tuple[int, int], list[dict]]:
    """Annotations by the place (x, y) of their tile."""
    places = {image["id"]: (image["source"]["x"], image["source"]["y"]) for image in data["images"]}
    result: dict[tuple[int, int], list[dict]] = {place: [] for place in places.values()}
    for annotation in data["annotations"]:
        result[places[annotation["image_id"]]].append(annotation)
    return result


@pytest.mark.parametrize(
    ("length", "size", "overlap", "starts"),
    [
        (20, 32, 8, [0]),
        (32, 32, 8, [0]),
        (33, 32, 8, [0, 1]),
        (56, 32, 8, [0, 24]),
        (57, 32, 8, [0, 24, 25]),
        (64, 32, 8, [0, 24, 32]),
        (64, 32, 0, [0, 32]),
        (1000, 800, 200, [0, 200]),
        (40, 16, 15, list(range(25))),
    ],
)
def test_tile_starts_by_hand(length, size, overlap, starts):
    """Steps of size - overlap; the last start is length - size."""
    assert tile_starts(length, size, overlap) == starts


def test_tiles_cover_every_pixel_with_the_overlap():
    for length in range(1, 150):
        starts = tile_starts(length, 32, 10)
        assert starts[0] == 0
        assert starts[-1] == max(0, length - 32)
        assert all(0 < b - a <= 22 for a, b in itertools.pairwise(starts))


@pytest.mark.parametrize("max_decoded", [0, 10**9])
def test_pixels_of_every_tile_equal_the_source(tmp_path, monkeypatch, max_decoded):
    if not max_decoded:
        pytest.importorskip("rasterio")
    monkeypatch.setattr("d2tiny.data.tools.tiling.RasterReader", lambda path, **_: RasterReader(path, max_decoded))
    root = write(tmp_path, {"a.png": (70, 90), "b.png": (20, 25), "c.png": (20, 90)})
    data = tile(root, SMALL)
    assert [i["id"] for i in data["images"]] == list(range(1, len(data["images"]) + 1))
    assert len(data["images"]) == 3 * 4 + 1 + 4
    for entry in data["images"]:
        place = entry["source"]
        expected = noise(*{1: (70, 90), 2: (20, 25), 3: (20, 90)}[place["image_id"]], place["image_id"])
        pixels = read_image(root / "out" / "images" / entry["file_name"])
        x, y = place["x"], place["y"]
        assert np.array_equal(pixels, expected[y : y + 32, x : x + 32])
        assert pixels.shape[:2] == (entry["height"], entry["width"])
    assert json.loads((root / "out" / "instances.json").read_text()) == data


def test_jpeg_tiles_are_close_to_the_source(tmp_path):
    write(tmp_path, {"a.png": (40, 40)})
    smooth = np.repeat(np.arange(40, dtype=np.uint8)[None, :, None] * 5, 40, 0).repeat(3, 2)
    save(tmp_path / "images" / "a.png", smooth)
    (entry, *_) = tile(tmp_path, TileSettings(size=32, overlap=24, suffix=".jpg"))["images"]
    assert entry["file_name"] == "a__0_0.jpg"
    found = read_image(tmp_path / "out" / "images" / entry["file_name"])
    assert np.abs(found.astype(int) - smooth[:32, :32]).max() < 8


def test_every_object_appears_and_maps_back_exactly(tmp_path):
    rng = np.random.default_rng(3)
    corners = rng.uniform(0, (150, 110), (200, 2))
    sides = np.minimum(rng.uniform(0.5, 8, (200, 2)), (160, 120) - corners)
    boxes = np.concatenate((corners, sides), axis=1)
    root = write(tmp_path, {"a.png": (120, 160)}, boxes.tolist())
    data = tile(root, TileSettings(size=32, overlap=8, keep=0.001))
    assert {a["source_id"] for a in data["annotations"]} == set(range(100, 300))
    assert not any(a["iscrowd"] for a in data["annotations"] if a["visible"] >= 0.001)
    whole = {a["source_id"] for a in data["annotations"] if a["visible"] == 1}
    assert whole == set(range(100, 300))  # none is larger than the overlap
    tiles = {image["id"]: image["source"] for image in data["images"]}
    for a in data["annotations"]:
        x, y, w, h = boxes[a["source_id"] - 100]
        left, top = tiles[a["image_id"]]["x"], tiles[a["image_id"]]["y"]
        x1, y1, x2, y2 = max(x, left), max(y, top), min(x + w, left + 32), min(y + h, top + 32)
        assert a["bbox"] == pytest.approx([x1 - left, y1 - top, x2 - x1, y2 - y1], abs=1e-9)
        assert a["visible"] == pytest.approx((x2 - x1) * (y2 - y1) / (w * h), abs=6e-5)
    assert [a["id"] for a in data["annotations"]] == list(range(1, len(data["annotations"]) + 1))


def test_keep_clips_and_ignores_by_hand(tmp_path):
    """Two tiles of 32, cut at x = 32. Box A 28-36: half on each side (4 of 8 columns). Box B 30-38: 2/8 and 6/8.

    C is whole on the right; D is a crowd of which 1/8 lies left. B's area is 20 of 32 px²: min(20 * 0.25, 2 * 4) = 5
    left, min(20 * 0.75, 6 * 4) = 15 right. C states no area, A one that is larger than its box.
    """
    annotations = [
        {"bbox": [28, 4, 8, 10], "area": 5000},
        {"bbox": [30, 16, 8, 4], "area": 20, "category_id": 9, "truncated": "yes"},
        {"bbox": [40, 1, 6, 3]},
        {"bbox": [31, 20, 8, 8], "iscrowd": 1, "area": 64},
    ]
    root = write(tmp_path, {"a.png": (32, 64)}, annotations)
    tiles = by_tile(tile(root, HALVES))

    def brief(items):
        return [(a["source_id"], a["bbox"], a["area"], a["iscrowd"], a["ignore"], a["visible"]) for a in items]

    assert brief(tiles[0, 0]) == [
        (100, [28, 4, 4, 10], 40, 0, 0, 0.5),
        (101, [30, 16, 2, 4], 5, 1, 1, 0.25),
        (103, [31, 20, 1, 8], 8, 1, 1, 0.125),
    ]
    assert brief(tiles[32, 0]) == [
        (100, [0, 4, 4, 10], 40, 0, 0, 0.5),
        (101, [0, 16, 6, 4], 15, 0, 0, 0.75),
        (102, [8, 1, 6, 3], 18, 0, 0, 1),
        (103, [0, 20, 7, 8], 56, 1, 1, 0.875),
    ]
    assert (tiles[0, 0][1]["category_id"], tiles[0, 0][1]["truncated"]) == (9, "yes")
    dropped = by_tile(tile(root, TileSettings(size=32, overlap=0, cut="drop"), "drop"))
    assert [a["source_id"] for a in dropped[0, 0]] == [100, 103]  # a crowd is not dropped
    assert len(dropped[32, 0]) == 4
    all_of_it = by_tile(tile(root, TileSettings(size=32, overlap=0, keep=1), "one"))
    assert [a["ignore"] for a in all_of_it[32, 0]] == [1, 1, 0, 1]


def test_a_tiled_dataset_is_a_dataset(tmp_path):
    root = write(tmp_path, {"a.png": (32, 64)}, [(28, 4, 8, 10), (30, 16, 8, 4)], license=3)
    tile(root, HALVES)
    truth = load_ground_truth(root / "out" / "instances.json")
    assert truth.classes == ("car", "van")
    assert truth.ignore.tolist() == [False, True, False, False]
    assert truth.sizes.tolist() == [[32, 32], [32, 32]]
    data = json.loads((root / "out" / "instances.json").read_text())
    assert data["images"][1]["source"] == {"file_name": "a.png", "image_id": 1, "x": 32, "y": 0}
    assert data["images"][1]["file_name"] == "a__32_0.png"
    assert data["info"]["tiling"] == {
        "size": 32, "overlap": 0, "keep": 0.5, "cut": "ignore", "empty": "keep", "suffix": ".png",
    }  # fmt: skip


def test_outlines_are_shifted_where_whole_and_removed_where_cut(tmp_path):
    polygon = [40, 1, 46, 1, 46, 4]
    annotations = [
        {"bbox": [40, 1, 6, 3], "segmentation": [polygon, [41, 2, 42, 2, 42, 3]]},
        {"bbox": [28, 4, 8, 10], "segmentation": [[28, 4, 36, 4, 36, 14]]},
        {"bbox": [50, 4, 4, 4], "segmentation": {"counts": [0, 1], "size": [32, 64]}},
    ]
    tiles = by_tile(tile(write(tmp_path, {"a.png": (32, 64)}, annotations), HALVES))
    first = tiles[32, 0][0]
    assert first["segmentation"] == [[8, 1, 14, 1, 14, 4], [9, 2, 10, 2, 10, 3]]
    assert all("segmentation" not in a for a in (*tiles[0, 0], *tiles[32, 0][1:]))
    assert [len(tiles[place]) for place in ((0, 0), (32, 0))] == [1, 3]


def test_keypoints_and_rotated_boxes_move_with_the_object(tmp_path):
    """Two tiles of 32. The first object lies whole in the right one, the second reaches over x = 32 by 4 of 8 px."""
    annotations = [
        {"bbox": [40, 1, 6, 4], "keypoints": [41, 2, 2, 0, 0, 0, 45, 4, 1], "num_keypoints": 2,
         "rbox": [43, 3, 6, 4, 0.5], "poly": [40, 1, 46, 1, 46, 5, 40, 5], "points": [[40, 1], [46, 5]],
         "truncated": 1, "tags": ["a", "b"], "attributes": {"occluded": True, "angle": 3.5}, "sibling_ids": [4, 5]},
        {"bbox": [28, 4, 8, 8], "keypoints": [29, 5, 2, 35, 6, 1], "num_keypoints": 2, "rbox": [32, 8, 8, 8, 0]},
    ]  # fmt: skip
    tiles = by_tile(tile(write(tmp_path, {"a.png": (32, 64)}, annotations), HALVES))
    whole, right = tiles[32, 0]
    (left,) = tiles[0, 0]
    assert whole["keypoints"] == [9, 2, 2, 0, 0, 0, 13, 4, 1]
    assert (whole["rbox"], whole["poly"]) == ([11, 3, 6, 4, 0.5], [8, 1, 14, 1, 14, 5, 8, 5])
    assert whole["points"] == [[8, 1], [14, 5]]
    assert {k: whole[k] for k in ("num_keypoints", "truncated", "tags", "attributes", "sibling_ids")} == {
        "num_keypoints": 2, "truncated": 1, "tags": ["a", "b"], "attributes": {"occluded": True, "angle": 3.5},
        "sibling_ids": [4, 5],
    }  # fmt: skip
    assert (left["keypoints"], left["num_keypoints"]) == ([29, 5, 2, 0, 0, 0], 1)
    assert (right["keypoints"], right["num_keypoints"]) == ([0, 0, 0, 3, 6, 1], 1)
    assert "rbox" not in left.keys() | right.keys()  # where a tile cuts it, nobody knows the rest


@pytest.mark.parametrize(
    "odd",
    [
        {"head": [41, 2]},
        {"bbox_visible": [40, 1, 3, 3]},
        {"visible": {"box": [40, 1, 3, 3]}},
        {"corner": ["40", "1"]},
        {"xmin": 40},
        {"center_x": 43.0},
        {"mask": {"x": 40, "y": 1}},
        {"rbox": [0.6, 0.1, 0.1, 0.1, 0.5]},  # shares of the image
        {"rbox": [43, 3, 6, 4]},
        {"rbox": "43 3 6 4 0"},
        {"poly": [[40, 1], [46]]},
        {"poly": [40, None, 46, 1, 46, 5]},
        {"keypoints": [41, 2, 2, 45], "num_keypoints": 1},
        {"keypoints": [41, 2, "2"]},
        {"keypoints": [10**400, 2, 2]},
        {"keypoints": {"x": 41}},
    ],
)
def test_places_that_nobody_can_move_are_left_out_and_counted(tmp_path, caplog, odd):
    root = write(tmp_path, {"a.png": (32, 64)}, [{"bbox": [40, 1, 6, 4], **odd}, (41, 1, 6, 4)])
    with caplog.at_level(logging.WARNING):
        first, second = by_tile(tile(root, HALVES))[32, 0]
    assert first.keys() == second.keys()
    where = f"annotation 100: {next(iter(odd))}"
    assert f"1 keys that may hold positions in the image, not copied (first: {where}" in caplog.text


def test_regions_are_clipped_to_the_tile(tmp_path):
    regions = {"ignored_regions": [[20, 5, 20, 10], [1, 1, 2, 2]], "ignored_boxes": [[40, 3, 50, 4]]}
    data = tile(write(tmp_path, {"a.png": (32, 64), "b.png": (32, 32)}, **regions), HALVES)
    left, right, other = data["images"]
    assert left["ignored_regions"] == [[20, 5, 12, 10], [1, 1, 2, 2]]
    assert right["ignored_regions"] == [[0, 5, 8, 10]]
    assert "ignored_boxes" not in left
    assert right["ignored_boxes"] == [[8, 3, 24, 4]]
    assert not {"ignored_regions", "ignored_boxes"} & set(other)


def test_empty_tiles_can_be_dropped(tmp_path):
    root = write(tmp_path, {"a.png": (32, 64), "b.png": (32, 32)}, [(40, 4, 8, 8)])
    data = tile(root, TileSettings(size=32, overlap=0, empty="drop"))
    assert [i["file_name"] for i in data["images"]] == ["a__32_0.png"]
    assert [f.name for f in (root / "out" / "images").iterdir()] == ["a__32_0.png"]
    assert len(tile(root, HALVES, "all")["images"]) == 3


def test_names_from_folders_stay_apart(tmp_path):
    root = write(tmp_path / "1", {"p/a.png": (20, 20), "q/a.png": (20, 20), "a.b.png": (20, 20)})
    names = [i["file_name"] for i in tile(root, SMALL)["images"]]
    assert names == ["p_a__0_0.png", "q_a__0_0.png", "a.b__0_0.png"]
    for images in ({"p/a.png": (20, 20), "p_a.png": (20, 20)}, {"a.png": (20, 20), "a.bmp": (20, 20)}):
        clash = write(tmp_path / f"clash{len(images)}{list(images)[1]}", images)
        with pytest.raises(DatasetError, match=r"two images would give tiles of the name '(p_)?a'"):
            tile(clash, SMALL)
        assert not (clash / "out").exists()


def test_backslashes_in_names_are_folders(tmp_path):
    data = tile(write(tmp_path, {"p\\a.png": (20, 20)}), SMALL)
    name = relative_name(data["images"][0]["file_name"])  # as the loader of training data sees it
    assert (tmp_path / "out" / "images" / name).exists()


def test_an_image_may_be_called_settings(tmp_path):
    root = write(tmp_path, {"settings.png": (20, 20)})
    assert tile(root, SMALL) == tile(root, SMALL)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ('"../a.png"', "leaves the image folder.*convert coco --images"),
        ('"/a.png"', "leaves the image folder"),
        ('"C:a.png"', "leaves the image folder"),
        ('""', "file_name of image 1 is missing"),
        ("null", "file_name of image 1 is missing"),
        ("[5]", "is no text"),
        ('"."', "names a folder"),
        ('"a\\u0000.png"', "is no name of a file"),
    ],
)
def test_names_that_are_no_files_of_the_folder_are_refused(tmp_path, name, message):
    root = write(tmp_path, {"a.png": (20, 20)})
    (root / "a.json").write_text((root / "a.json").read_text().replace('"a.png"', name))
    with pytest.raises(DatasetError, match=message):
        tile(root, SMALL)


def test_unusable_annotations_are_counted(tmp_path, caplog):
    annotations = [(1, 1, 0, 4), {"bbox": [1, 2]}, (2, 2, 4, 4), {"bbox": [1, 1, 2, 2], "image_id": 77}]
    with caplog.at_level(logging.WARNING):
        data = tile(write(tmp_path, {"a.png": (20, 20)}, annotations), SMALL)
    assert [a["source_id"] for a in data["annotations"]] == [102]
    assert "1 boxes without area" in caplog.text
    assert "1 boxes that are not four numbers" in caplog.text
    assert "1 annotations of an unknown image" in caplog.text


@pytest.mark.parametrize(
    "bad",
    [
        {"size": 15}, {"overlap": 800}, {"overlap": -1}, {"keep": 1.1}, {"keep": -0.1},
        {"cut": "keep"}, {"empty": "no"}, {"suffix": ".tif"},
    ],
)  # fmt: skip
def test_bad_settings_are_refused(bad):
    with pytest.raises(ConfigError, match=next(iter(bad))):
        TileSettings(**bad)


def test_other_settings_are_refused(tmp_path):
    root = write(tmp_path, {"a.png": (20, 20)})
    tile(root, SMALL)
    with pytest.raises(ConfigError, match=r"holds tiles of other settings.*'overlap': 8.*Choose another folder"):
        tile(root, HALVES)


def age(folder: Path) -> None:
    """Date all tiles back, so that any later write shows."""
    for file in folder.iterdir():
        os.utime(file, (1000, 1000))


def rewritten(folder: Path) -> set[str]:
    return {f.name.split("__")[0] for f in folder.iterdir() if f.stat().st_mtime != 1000}


def test_a_stopped_run_goes_on(tmp_path):
    root = write(tmp_path, {f"{n}.png": (40, 40) for n in "abc"}, [(1, 1, 5, 5), {"bbox": [3, 3, 4, 4], "image_id": 3}])
    tiles = root / "out" / "images"
    good = (root / "images" / "b.png").read_bytes()
    (root / "images" / "b.png").write_bytes(good[: len(good) // 2])
    with pytest.raises(DatasetError, match=r"b\.png: cannot read this image"):
        tile(root, SMALL)
    assert not (root / "out" / "instances.json").exists()
    assert (tiles / "a__8_8.png").exists()
    age(tiles)
    (root / "images" / "b.png").write_bytes(good)
    data = tile(root, SMALL)
    assert "a" not in rewritten(tiles)
    assert data == tile(root, SMALL, "fresh")
    age(tiles)
    assert tile(root, SMALL) == data
    assert rewritten(tiles) == set()
    (tiles / "c__8_0.png").unlink()
    assert tile(root, SMALL) == data
    assert rewritten(tiles) == {"c"}


def test_a_killed_run_leaves_no_half_tile(tmp_path, monkeypatch):
    from d2tiny.data.tools import tiling

    calls = []

    def stop(path, pixels, write=tiling.write_image):
        calls.append(path)
        if len(calls) == 6:  # in the second image
            raise KeyboardInterrupt
        write(path, pixels)

    root = write(tmp_path, {f"{n}.png": (40, 40) for n in "abc"})
    monkeypatch.setattr(tiling, "write_image", stop)
    with pytest.raises(KeyboardInterrupt):
        tile(root, SMALL)
    monkeypatch.undo()
    assert len(list((root / "out" / "images").iterdir())) < 12
    age(root / "out" / "images")
    assert tile(root, SMALL) == tile(root, SMALL, "fresh")
    assert "a" not in rewritten(root / "out" / "images")
    for file in (root / "fresh" / "images").iterdir():
        assert file.read_bytes() == (root / "out" / "images" / file.name).read_bytes()


def test_changed_sources_are_cut_again(tmp_path):
    root = write(tmp_path, {"a.png": (40, 40), "b.png": (40, 40)}, [(1, 1, 5, 5)])
    tile(root, SMALL)
    age(root / "out" / "images")
    save(root / "images" / "a.png", noise(40, 40, 99))
    os.utime(root / "images" / "a.png", (5000, 5000))
    tile(root, SMALL)
    assert rewritten(root / "out" / "images") == {"a"}
    assert np.array_equal(read_image(root / "out" / "images" / "a__8_8.png"), noise(40, 40, 99)[8:, 8:])


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ({"bbox": [1, 1, 5, 5]}, {"bbox": [2, 1, 5, 5]}),
        ({"bbox": [1, 1, 5, 5]}, {"bbox": [1, 2, 4, 5]}),  # the same sum of the corners
        ({"bbox": [1, 1, 5, 5]}, {"bbox": [1, 1, 5, 5], "category_id": 9}),
        ({"bbox": [1, 1, 5, 5]}, {"bbox": [1, 1, 5, 5], "iscrowd": 1}),
    ],
)
def test_changed_annotations_are_seen(tmp_path, old, new):
    tile(write(tmp_path, {"a.png": (20, 20)}, [old]), SMALL)
    state = (tmp_path / "images" / "a.png").stat()
    write(tmp_path, {"a.png": (20, 20)}, [new])
    os.utime(tmp_path / "images" / "a.png", ns=(state.st_atime_ns, state.st_mtime_ns))
    assert tile(tmp_path, SMALL) == tile(tmp_path, SMALL, "fresh")


def tampered(root: Path, change) -> tuple[Path, dict]:
    """A finished dataset whose stored state ``change`` modifies, and what tiling gave."""
    data = tile(write(root, {"a.png": (40, 40)}, [(1, 1, 5, 5)]), SMALL)
    part = root / "out" / ".parts" / "a.json"
    part.write_text(change(json.loads(part.read_text())))
    return part, data


@pytest.mark.parametrize(
    "name", ["../../victim", "../victim", "/etc/hosts", "victim", "a__0_0.png/../../../victim", "b__0_0.png", 5, None]
)
@pytest.mark.parametrize("key", ["same", "other"])
def test_a_tampered_state_deletes_nothing(tmp_path, name, key):
    victims = [tmp_path / "victim", tmp_path / "out" / "victim", tmp_path / "out" / "images" / "b__0_0.png"]

    def change(stored):
        stored["tiles"][0]["file_name"] = name
        return json.dumps(stored if key == "same" else {**stored, "key": []})

    part, data = tampered(tmp_path, change)
    for victim in victims:
        victim.write_text("mine")
    assert tile(tmp_path, SMALL) == data
    assert [victim.read_text() for victim in victims] == ["mine"] * 3
    assert "victim" not in part.read_text()


@pytest.mark.parametrize("text", ["", "[]", "null", "{}", '{"key": 1, "tiles": 5}', '{"key": 1, "tiles": [5]}', "\0"])
def test_a_damaged_state_is_no_state(tmp_path, text, caplog):
    _, data = tampered(tmp_path, lambda stored: text)
    assert tile(tmp_path, SMALL) == data
    assert "a.json was not written by tiling; the image is cut again" in caplog.text


def test_what_a_state_says_of_objects_is_not_believed(tmp_path):
    def change(stored):
        stored["tiles"][0]["annotations"] = [{"bbox": [0, 0, 9, 9], "category_id": 9}]
        return json.dumps(stored)

    _, data = tampered(tmp_path, change)
    assert tile(tmp_path, SMALL) == data


def test_links_in_the_output_are_not_followed(tmp_path):
    root, elsewhere = write(tmp_path, {"a.png": (40, 40)}), tmp_path / "elsewhere"
    elsewhere.mkdir()
    victim = elsewhere / "victim"
    victim.write_text("mine")
    tile(root, SMALL)
    for name in ("images/a__0_0.png", ".parts/a.json", "instances.json"):
        (root / "out" / name).unlink()
        (root / "out" / name).symlink_to(victim)
    tile(root, SMALL)
    assert victim.read_text() == "mine"
    (root / "new").mkdir()
    (root / "new" / ".parts").symlink_to(elsewhere)
    with pytest.raises(ConfigError, match=r"\.parts is a link, which is not followed"):
        tile(root, SMALL, "new")
    assert [f.name for f in elsewhere.iterdir()] == ["victim"]


# --- images without labels ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("keys", [{}, {"annotations": None}, {"info": {}, "licenses": []}])
@pytest.mark.parametrize("categories", [[], [{"id": 5, "name": "car"}], None])
def test_a_json_without_annotations_is_cut(tmp_path, keys, categories, caplog):
    """COCO's image_info of its test sets."""
    root = write(tmp_path, {"a.png": (40, 40), "b.png": (20, 20)})
    data = {"images": json.loads((root / "a.json").read_text())["images"], **keys}
    (root / "a.json").write_text(json.dumps(data if categories is None else {**data, "categories": categories}))
    with caplog.at_level(logging.WARNING):
        result = tile(root, SMALL)
    assert "1 files without annotations, read as images only" in caplog.text
    assert (len(result["images"]), result["annotations"], result["categories"]) == (5, [], categories or [])
    assert len(list((root / "out" / "images").iterdir())) == 5


def test_a_json_that_is_none_is_still_refused(tmp_path):
    root = write(tmp_path, {"a.png": (20, 20)})
    for data, message in (({"annotations": []}, "'images' is missing"), ([], "expected a COCO object")):
        (root / "a.json").write_text(json.dumps(data))
        with pytest.raises(DatasetError, match=message):
            tile(root, SMALL)


def test_a_folder_of_images_is_cut(tmp_path):
    root = write(tmp_path, {"b.png": (40, 40), "a.jpg": (20, 30)})
    (root / "images" / "notes.txt").write_text("no image")
    data = tile_dataset(root / "images", root / "images", root / "out", SMALL, jobs=1, progress=False)
    assert [(i["file_name"], i["source"]["file_name"], i["source"]["image_id"]) for i in data["images"]][:2] == [
        ("a__0_0.png", "a.jpg", 1),
        ("b__0_0.png", "b.png", 2),
    ]
    assert len(data["images"]) == 5
    assert load_ground_truth(root / "out" / "instances.json").file_names[0] == "a__0_0.png"
    (root / "images" / "c.png").write_bytes(b"nothing")
    with pytest.raises(DatasetError, match=r"c\.png: cannot read this image .*Repair it or take it out"):
        tile_dataset(root / "images", root / "images", root / "out", SMALL, progress=False)


def test_the_command_takes_a_folder(tmp_path, capsys):
    root = write(tmp_path, {"a.png": (40, 40)}, [(1, 1, 5, 5)])
    options = ["--size", "32", "--overlap", "8"]
    images, out = str(root / "images"), str(root / "out")
    assert main(["tile", images, "-o", out, *options]) == 0
    assert main(["tile", images, "--images", f"{images}/", "-o", out, *options]) == 0
    assert "4 tiles, 0 objects" in capsys.readouterr().out
    assert main(["tile", str(root / "a.json"), "-o", out, *options]) == 2
    assert "name the folder of its images with --images" in capsys.readouterr().err
    assert main(["tile", images, "--images", str(root), "-o", out, *options]) == 2
    assert "is a folder of images; leave --images" in capsys.readouterr().err
    assert main(["tile", str(root), "-o", out, *options]) == 2
    assert "Its folders images hold images: name one of them" in capsys.readouterr().err


def test_changed_regions_are_seen(tmp_path):
    tile(write(tmp_path, {"a.png": (20, 20)}, ignored_regions=[[1, 1, 3, 3]]), SMALL)
    state = (tmp_path / "images" / "a.png").stat()
    write(tmp_path, {"a.png": (20, 20)}, ignored_regions=[[5, 5, 3, 3]])
    os.utime(tmp_path / "images" / "a.png", ns=(state.st_atime_ns, state.st_mtime_ns))
    assert tile(tmp_path, SMALL)["images"][0]["ignored_regions"] == [[5, 5, 3, 3]]


def test_messages_name_the_image(tmp_path):
    root = write(tmp_path, {"a.png": (20, 20)})
    (root / "a.json").write_text((root / "a.json").read_text().replace('"width": 20', '"width": 21'))
    with pytest.raises(DatasetError, match=r"a\.png: 20x20 px, but the json says 21x20"):
        tile(root, SMALL)
    (root / "images" / "a.png").write_bytes(b"nothing")
    with pytest.raises(DatasetError, match=r"a\.png: cannot read this image"):
        tile(root, SMALL)
    (root / "images" / "a.png").unlink()
    with pytest.raises(DatasetError, match=r"a\.png: cannot read this image"):
        tile(root, SMALL)


def test_the_number_of_jobs_does_not_matter(tmp_path):
    annotations = [{"bbox": [5 * i, 3 * i, 6, 6], "image_id": 1 + i % 6} for i in range(12)]
    root = write(tmp_path, {f"{n}.png": (60, 70) for n in "abcdef"}, annotations)
    for jobs in (0, 1, 2):
        tile(root, SMALL, f"j{jobs}", jobs)
    texts = [(root / f"j{jobs}" / "instances.json").read_text() for jobs in (0, 1, 2)]
    assert texts[0] == texts[1] == texts[2]


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def gray_png(depth: int, height: int = 40, width: int = 48) -> bytes:
    """A grey PNG of 1, 2 or 4 bits; PIL writes the first only."""
    values, per = noise(height, width)[:, :, 0] >> (8 - depth), 8 // depth
    packed = sum(values[:, i::per].astype(int) << (8 - depth * (i + 1)) for i in range(per)).astype(np.uint8)
    header = struct.pack(">IIBBBBB", width, height, depth, 0, 0, 0, 0)
    lines = b"".join(b"\0" + row.tobytes() for row in packed)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(lines)) + chunk(b"IEND", b"")
    )  # fmt: skip


def as_file(image: Image.Image, kind: str = "PNG", **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


FORMATS = {
    "rgb": lambda im: as_file(im),
    "grey": lambda im: as_file(im.convert("L")),
    "palette": lambda im: as_file(im.quantize(60)),
    "palette of 4 bits": lambda im: as_file(im.quantize(9), bits=4),
    "palette, transparent": lambda im: as_file(im.quantize(60), transparency=bytes(range(60))),
    "rgba": lambda im: as_file(im.convert("RGBA")),
    "grey and alpha": lambda im: as_file(im.convert("LA")),
    "grey of 1 bit": lambda im: gray_png(1),
    "grey of 2 bits": lambda im: gray_png(2),
    "grey of 4 bits": lambda im: gray_png(4),
    "tiff": lambda im: as_file(im, "TIFF"),
    "tiff, palette": lambda im: as_file(im.quantize(60), "TIFF"),
}


@pytest.mark.parametrize("name", FORMATS)
def test_bands_equal_the_decoded_image(tmp_path, name):
    pytest.importorskip("rasterio")
    path = tmp_path / ("a.tif" if "tiff" in name else "a.png")
    path.write_bytes(FORMATS[name](Image.fromarray(noise(40, 48))))
    expected = read_image(path)
    with RasterReader(path, max_decoded=0) as large, RasterReader(path) as small:
        assert (large.width, large.height) == (small.width, small.height) == (48, 40)
        # overlapping, touching, skipping, inside of the last, backwards, whole
        for first, last in ((0, 10), (6, 16), (12, 22), (22, 30), (35, 40), (36, 38), (2, 9), (0, 40)):
            rows = large.rows(first, last)
            assert rows.dtype == np.uint8
            assert np.array_equal(rows, expected[first:last]), (first, last)
            assert np.array_equal(small.rows(first, last), expected[first:last])


@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
def test_the_orientation_of_the_camera_is_obeyed_or_refused(tmp_path, kind):
    pytest.importorskip("rasterio")
    exif = Image.Exif()
    exif[0x112] = 6
    path = tmp_path / "a"
    options = {"exif": exif.tobytes(), **({"subsampling": 0} if kind == "JPEG" else {})}
    path.write_bytes(as_file(Image.fromarray(noise(40, 48)), kind, **options))
    try:
        reader = RasterReader(path, max_decoded=0)
    except DatasetError:
        return
    with reader:
        assert (reader.width, reader.height) == (40, 48)
        assert np.allclose(reader.rows(0, 48).astype(int), read_image(path), atol=2)


def test_large_images_of_16_bits_are_refused(tmp_path):
    pytest.importorskip("rasterio")
    Image.fromarray(noise(20, 20)[:, :, 0].astype(np.uint16) * 200).save(tmp_path / "a.png")
    with pytest.raises(DatasetError, match=r"a\.png: its values are uint16; make it 8-bit"):
        RasterReader(tmp_path / "a.png", max_decoded=0)


@pytest.mark.parametrize("rows", [100, 400])
@pytest.mark.parametrize("ending", ["png", "jpg"])
def test_large_damaged_images_are_refused(tmp_path, ending, rows):
    pytest.importorskip("rasterio")
    path = tmp_path / f"a.{ending}"
    save(path, noise(400, 500))
    path.write_bytes(path.read_bytes()[:-200_000])
    with (
        pytest.raises(DatasetError, match=rf"a\.{ending}: cannot read"),
        RasterReader(path, max_decoded=0) as reader,
    ):
        for first in range(0, 400, rows):
            reader.rows(first, first + rows)


def test_large_images_need_rasterio(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "rasterio", None)
    save(tmp_path / "a.png", noise(20, 20))
    with pytest.raises(ImportError, match=r"d2tiny\[geo\]"):
        RasterReader(tmp_path / "a.png", max_decoded=0)
    assert RasterReader(tmp_path / "a.png", max_decoded=400).rows(3, 5).shape == (2, 20, 3)


def test_threads_do_not_change_pils_size_limit(tmp_path, monkeypatch):
    """A opens, B opens, A is done, B is done: B must not restore what A had set for itself."""
    limit = Image.MAX_IMAGE_PIXELS
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)  # restores it
    save(tmp_path / "a.png", noise(20, 20))
    save(tmp_path / "b.png", noise(20, 20))
    a_in, b_in, a_done = threading.Event(), threading.Event(), threading.Event()

    def slow_open(path, *args, original=Image.open, **kwargs):
        if Path(path).name == "a.png":
            a_in.set()
            b_in.wait(0.3)
        else:
            b_in.set()
            a_done.wait(2)
        return original(path, *args, **kwargs)

    monkeypatch.setattr(Image, "open", slow_open)
    first = threading.Thread(target=lambda: (RasterReader(tmp_path / "a.png"), a_done.set()))
    first.start()
    a_in.wait(0.3)
    RasterReader(tmp_path / "b.png")
    first.join()
    assert limit == Image.MAX_IMAGE_PIXELS


MEMORY = """
import functools, sys
from pathlib import Path
import cv2, numpy, rasterio
from d2tiny.data.loading import raster
from d2tiny.data.tools import tiling

root = Path(sys.argv[1])
tiling.RasterReader = functools.partial(raster.RasterReader, max_decoded=0)

def run(name):
    settings = tiling.TileSettings(256, 64, empty="drop")  # time goes into reading, not writing
    tiling.tile_dataset(root / f"{name}.json", root, root / name, settings, jobs=1, progress=False)
    # not ru_maxrss, which a process inherits from the one that starts it
    status = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in status if line.startswith("VmHWM"))

print(run("small"), run("large"))
"""


@pytest.mark.slow
def test_memory_is_that_of_a_row_of_tiles(tmp_path):
    """6000² px are 108 MB; a row of tiles is 256 × 6000 × 3 = 4.6 MB. GDAL may keep 32 MB besides."""
    pytest.importorskip("rasterio")
    if not Path("/proc/self/status").exists():
        pytest.skip("needs /proc")
    for name, side in (("small", 300), ("large", 6000)):
        y, x = np.mgrid[:side, :side].astype(np.uint16)
        pixels = np.stack((x >> 5, y >> 5, (x + y) >> 6), axis=2).astype(np.uint8)
        cv2.imwrite(str(tmp_path / f"{name}.png"), pixels, [cv2.IMWRITE_PNG_COMPRESSION, 1])
        image = {"id": 1, "file_name": f"{name}.png", "width": side, "height": side}
        annotations = [{"image_id": 1, "category_id": 1, "bbox": [9, 9, 9, 9]}]
        data = {"images": [image], "annotations": annotations, "categories": [{"id": 1, "name": "car"}]}
        (tmp_path / f"{name}.json").write_text(json.dumps(data))
    done = subprocess.run(
        [sys.executable, "-c", MEMORY, str(tmp_path)], cwd=ROOT, capture_output=True, text=True, check=True
    )
    before, after = map(int, done.stdout.split())
    row = 256 * 6000 * 3
    assert after - before < (32 << 20) + 6 * row, f"{(after - before) / 2**20:.0f} MB"
