"""Odd COCO files through every reader: what is understood is the same everywhere, the rest is named."""

from __future__ import annotations

import contextlib
import json
import logging
import math
import random

import numpy as np
import pytest
from PIL import Image

from d2tiny.data.coco.arrays import load_ground_truth
from d2tiny.data.coco.check import check_json
from d2tiny.data.coco.writer import write_coco
from d2tiny.data.datasets import DatasetSource, load_coco_like
from d2tiny.data.tools.converters import convert_dataset
from d2tiny.data.tools.tiling import TileSettings, tile_dataset
from d2tiny.utils.errors import D2TinyError, DatasetError

NAN = math.nan
TILES = TileSettings(size=32, overlap=8)
BOXES = {1: [[5, 5, 8, 8], [20, 10, 6, 9]], 2: [[30, 20, 10, 7]]}


def sample():
    """Two images of 64×48 px with two and one objects of two classes."""
    boxes = [(image, box) for image, items in BOXES.items() for box in items]
    return {
        "images": [{"id": i, "file_name": f"{n}.png", "width": 64, "height": 48} for i, n in ((1, "a"), (2, "b"))],
        "annotations": [
            {"id": i, "image_id": image, "category_id": 1 + i % 2, "bbox": list(box), "area": box[2] * box[3]}
            for i, (image, box) in enumerate(boxes, start=1)
        ],
        "categories": [{"id": 1, "name": "vehicle"}, {"id": 2, "name": "ship"}],
    }


@pytest.fixture
def root(tmp_path):
    (tmp_path / "img").mkdir()
    for name in ("a", "b"):
        Image.fromarray(np.zeros((48, 64, 3), np.uint8)).save(tmp_path / "img" / f"{name}.png")
    return tmp_path


def write(root, data, name="x.json"):
    path = root / name
    path.write_text(data if isinstance(data, str) else json.dumps(data))
    return path


def train(root, path):
    """XYWH boxes and ignore marks of each image, as training sees them."""
    records = load_coco_like(DatasetSource(f"odd_{root.name}", (str(path),), (str(root / "img"),)))
    return {r["image_id"]: [(a["bbox"], a["iscrowd"]) for a in r["annotations"]] for r in records}


def convert(root, path):
    return convert_dataset("coco", path, images=root / "img", progress=False)


def tile(root, path, out="tiles"):
    return tile_dataset(path, root / "img", root / out, TILES, jobs=1, progress=False)


def objects(data):
    """Number of objects and of ignored ones of a COCO dict, by source in tiles."""
    seen = {(a.get("source_id", a["id"]), a["iscrowd"]) for a in data["annotations"] if a.get("visible", 1) == 1}
    return len([s for s in seen if not s[1]]), len([s for s in seen if s[1]])


def everywhere(root, data):
    """Return (objects, ignored ones) as training, evaluation, check, convert and tile see them; all must agree."""
    path = write(root, data)
    boxes = [item for items in train(root, path).values() for item in items]
    truth = load_ground_truth(path)
    counts = [
        (sum(not ignored for _, ignored in boxes), sum(ignored for _, ignored in boxes)),
        (int((~truth.ignore).sum()), int(truth.ignore.sum())),
        objects(check_json(path, root / "img", progress=False).clean),
        objects(convert(root, path).data),
        objects(tile(root, path)),
    ]
    assert len(set(counts)) == 1, counts
    return counts[0]


def each(part, **changes):
    """Return a change of all entries; functions get the entry."""
    return lambda d: [e.update({k: v(e) if callable(v) else v for k, v in changes.items()}) for e in d[part]]


def one(part, index, **changes):
    return lambda d: d[part][index].update(changes)


UNDERSTOOD = {
    "image ids as text in annotations": each("annotations", image_id=lambda a: str(a["image_id"])),
    "image ids as text in images": each("images", id=lambda i: f"000{i['id']}"),
    "image ids as floats": each("annotations", image_id=lambda a: float(a["image_id"])),
    "category ids as text in annotations": each("annotations", category_id=lambda a: str(a["category_id"])),
    "category ids as text in categories": each("categories", id=lambda c: f" {c['id']} "),
    "flags as text": each("annotations", iscrowd="0", ignore="false"),
    "flags as null and floats": each("annotations", iscrowd=None, ignore=0.0),
    "sizes as floats": each("images", width=64.0, height=48.0),
    "sizes as text": each("images", width="64", height="48.0"),
    "boxes as arrays of JavaScript": each("annotations", bbox=lambda a: dict(zip("0123", a["bbox"], strict=True))),
    "boxes as text": each("annotations", bbox=lambda a: [f"{v}.0" for v in a["bbox"]]),
    "boxes missing, polygons": lambda d: [
        a.update(segmentation=[[x, y, x + w, y, x + w, y + h, x, y + h]])
        for a in d["annotations"]
        for x, y, w, h in [a.pop("bbox")]
    ],
    "null annotation": lambda d: d["annotations"].append(None),
    "null regions": each("images", ignored_regions=None),
    "regions of a number": each("images", ignored_regions=5),
    "regions of two values": each("images", ignored_boxes=[[1, 2]]),
    "NaN in a key": one("annotations", 0, score=NAN),
    "NaN deep in a key": one("annotations", 0, attributes={"a": [{"b": NAN}]}),
    "NaN in an image": one("images", 0, gsd=NAN),
    "NaN in a category": one("categories", 0, supercategory=NAN),
    "infinite annotation id": one("annotations", 0, id=math.inf),
    "flat polygon": one("annotations", 0, segmentation=[5, 5, 13, 5, 13, 13]),
    "null in polygons": one("annotations", 0, segmentation=[None]),
    "polygons of points": one("annotations", 0, segmentation=[[[5, 5], [13, 5], [13, 13]]]),
    "polygons of texts": one("annotations", 0, segmentation=[["5", "5", "13", "5", "13", "13"]]),
    "outline of a text": one("annotations", 0, segmentation="5 5 13 5"),
    "no outline": each("annotations", segmentation=[]),
    "nested deep": one("annotations", 0, x=json.loads("[" * 200 + "]" * 200)),
    "keys of other names": lambda d: d.update(annotation=d.pop("annotations")),
    "names of files in another key": lambda d: [i.update(filename=i.pop("file_name")) for i in d["images"]],
    "integers as names": each("categories", name=lambda c: c["id"]),
}


@pytest.mark.parametrize("change", UNDERSTOOD.values(), ids=UNDERSTOOD)
def test_every_reader_understands(root, change):
    data = sample()
    change(data)
    assert everywhere(root, data) == (3, 0)
    assert load_ground_truth(root / "x.json").boxes.tolist() == [box for boxes in BOXES.values() for box in boxes]


LEFT_OUT = {
    "list as image id": (one("annotations", 0, image_id=[1]), "annotations of an unknown image"),
    "truth as image id": (one("annotations", 0, image_id=True), "annotations of an unknown image"),
    "underscore in the image id": (one("annotations", 0, image_id="1_"), "annotations of an unknown image"),
    "list as category id": (one("annotations", 0, category_id=[1]), "annotations of an unknown category"),
    "null as category id": (one("annotations", 0, category_id=None), "annotations of an unknown category"),
    "fraction as category id": (one("annotations", 0, category_id=1.5), "annotations of an unknown category"),
    "box of four digits": (one("annotations", 0, bbox="1234"), "boxes that are not four numbers"),
    "box of other keys": (
        one("annotations", 0, bbox={"x": 5, "y": 5, "w": 8, "h": 8}),
        "boxes that are not four numbers",
    ),
    "box with underscore": (one("annotations", 0, bbox=["5_0", 5, 8, 8]), "boxes that are not four numbers"),
    "no box, flat polygon": (
        one("annotations", 0, bbox=None, segmentation=[5, 5, 13, 5, 13, 13]),
        "boxes that are not four numbers",
    ),
    "box of NaN": (one("annotations", 0, bbox=[NAN, 5, 8, 8]), "boxes with NaN or infinity"),
    "huge box": (one("annotations", 0, bbox=[5, 5, 1e300, 1e300]), "boxes larger than any image"),
}


@pytest.mark.parametrize(("change", "kind"), LEFT_OUT.values(), ids=LEFT_OUT)
def test_every_reader_leaves_out_and_says_so(root, caplog, change, kind):
    data = sample()
    change(data)
    with caplog.at_level(logging.WARNING):
        assert everywhere(root, data) == (2, 0)
    assert sum(kind in record.getMessage() for record in caplog.records) >= 3  # training, evaluation, tiles
    found = [entry["what"] for entry in check_json(root / "x.json", root / "img", progress=False).findings.to_dict()]
    assert any(what.split(" of ")[0] in kind or what.startswith(kind) for what in found)


def test_marks_without_a_meaning_are_ignored_regions_and_a_finding(root, caplog):
    data = sample()
    data["annotations"][0]["iscrowd"] = "maybe"
    data["annotations"][1]["ignore"] = 2
    data["annotations"][2]["iscrowd"] = "TRUE"
    with caplog.at_level(logging.WARNING):
        assert everywhere(root, data) == (0, 3)
    assert "2 marks that are neither true nor false, taken as ignored" in caplog.text
    assert "annotation id 1 of image id 1: iscrowd maybe" in caplog.text


def test_a_box_of_a_small_side_is_without_area_everywhere(root):
    data = sample()
    data["annotations"][0]["bbox"] = [0, 5, 1e-320, 8]
    path = write(root, data)
    assert sum(map(len, train(root, path).values())) == 2
    for clean in (check_json(path, root / "img", progress=False).clean, convert(root, path).data, tile(root, path)):
        assert objects(clean) == (2, 0)


def test_class_names_as_ids(root):
    """Converting gives numbers; the check's copy too; readers that need numbers say what to do."""
    data = sample()
    for category in data["categories"]:
        category["id"] = category["name"]
    for annotation, name in zip(data["annotations"], ("ship", "vehicle", "ship"), strict=True):
        annotation["category_id"] = name
    path = write(root, data)
    for read in (train, tile):
        with pytest.raises(DatasetError, match=r"category id 'vehicle' is no number; `d2tiny convert coco`"):
            read(root, path)
    for clean in (convert(root, path).data, check_json(path, root / "img", progress=False).clean):
        assert {c["id"]: c["name"] for c in clean["categories"]} == {1: "vehicle", 2: "ship"}
        assert [a["category_id"] for a in clean["annotations"]] == [2, 1, 2]


def test_geometry_that_tiles_cannot_move_is_not_copied(root, caplog):
    data = sample()
    extra = {"head": [5, 5], "rbox": {"cx": 5, "cy": 5}, "tags": ["a", "b"], "score": 0.5, "truncated": True}
    data["annotations"][0].update(extra)
    data["annotations"][0]["segmentation"] = [[5, 5, 13, 5, 13, 13]]
    with caplog.at_level(logging.WARNING):
        tiles = tile(root, write(root, data))
    first = next(a for a in tiles["annotations"] if a["source_id"] == 1)
    assert {key for key in first if key in extra} == {"tags", "score", "truncated"}
    assert first["segmentation"] == [[5, 5, 13, 5, 13, 13]]
    assert "2 keys that may hold positions in the image, not copied" in caplog.text


def test_lists_of_test_images_are_tiled_and_converted_but_not_evaluated(root):
    data = sample()
    del data["annotations"]
    path = write(root, data)
    assert len(tile(root, path)["images"]) == 12
    assert len(convert(root, path).data["images"]) == 2
    with pytest.raises(DatasetError, match="the list 'annotations' is missing"):
        load_ground_truth(path)


def test_tiles_without_any_of_the_labels_are_refused(root):
    data = sample()
    for annotation in data["annotations"]:
        annotation["image_id"] = "elsewhere"
    with pytest.raises(DatasetError, match=r"no annotation could be used: 3 annotations of an unknown image"):
        tile(root, write(root, data))


def test_nothing_left_to_evaluate_is_an_error(root):
    data = sample()
    for annotation in data["annotations"]:
        annotation["ignore"] = "true"
    with pytest.raises(DatasetError, match=r"x\.json: no object to evaluate: 3 annotations .* all 3 usable ones are"):
        load_ground_truth(write(root, data)).require_objects(root / "x.json")
    for annotation in data["annotations"]:
        annotation["image_id"] = 77
    with pytest.raises(DatasetError, match="none of them is usable"):
        load_ground_truth(write(root, data)).require_objects(root / "x.json")


# --- file names and sizes --------------------------------------------------------------------------------------------


def test_colons_are_names_and_drives_are_not(root):
    (root / "img" / "a.png").rename(root / "img" / "flight_12:30:05.png")
    data = sample()
    data["images"][0]["file_name"] = "flight_12:30:05.png"
    assert everywhere(root, data) == (3, 0)
    for name in ("C:\\img\\a.png", "c:a.png"):
        data["images"][0]["file_name"] = name
        with pytest.raises(DatasetError, match="leaves the image folder"):
            train(root, write(root, data))


def test_files_are_found_by_the_last_parts_of_their_names(root):
    (root / "img" / "day").mkdir()
    (root / "img" / "a.png").rename(root / "img" / "day" / "a.png")
    data = sample()
    for image, name in zip(data["images"], ("/data/day/a.png", "..\\other\\b.png"), strict=True):
        image["file_name"] = name
    result = convert(root, write(root, data))
    assert [i["file_name"] for i in result.data["images"]] == ["day/a.png", "b.png"]
    assert objects(result.data) == (3, 0)
    assert result.findings.kinds["file names that lead nowhere, found by their last parts"].count == 2
    with pytest.raises(DatasetError, match="convert coco --images` finds files"):
        train(root, root / "x.json")


@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("e\u0301.png", "\u00e9.png"),  # composed by the one system, not by the other
        ("\u00e9.png", "e\u0301.png"),
        ("a%20b.png", "a b.png"),
        ("A.PNG", "a.png"),
        (" a.png\n", "a.png"),
        ("C:a.png", "a.png"),
        ("file:///data/a.png", "a.png"),
    ],
)
def test_files_are_found_in_other_spellings(root, name, file):
    (root / "img" / "a.png").rename(root / "img" / file)
    data = sample()
    data["images"][0]["file_name"] = name
    result = convert(root, write(root, data))
    assert [i["file_name"] for i in result.data["images"]] == [file, "b.png"]
    assert result.findings.kinds["file names that lead nowhere, found by their last parts"].count == 1


def test_the_exact_spelling_comes_first(root):
    data = sample()
    for name in ("A.png", "a.PNG"):
        (root / "img" / name).write_bytes((root / "img" / "a.png").read_bytes())
    data["images"][0]["file_name"] = "/data/a.PNG"
    assert [i["file_name"] for i in convert(root, write(root, data)).data["images"]] == ["a.PNG", "b.png"]
    data["images"][0]["file_name"] = "/data/A.PNG"
    assert "missing images that may be several files" in str(convert(root, write(root, data)).findings)


def test_several_files_of_one_name_are_not_guessed(root):
    for folder in ("p", "q"):
        (root / "img" / folder).mkdir()
        (root / "img" / folder / "c.png").write_bytes((root / "img" / "a.png").read_bytes())
    data = sample()
    data["images"][0]["file_name"] = "/data/c.png"
    result = convert(root, write(root, data))
    assert len(result.data["images"]) == 1
    assert "p/c.png or q/c.png" in str(result.findings)
    data["images"][0]["file_name"] = "/data/q/c.png"
    assert convert(root, write(root, data)).data["images"][0]["file_name"] == "q/c.png"


def test_two_names_of_one_file_are_joined(root):
    data = sample()
    for image, name in zip(data["images"], ("/data/img/b.png", "../img/b.png"), strict=True):
        image["file_name"] = name
    result = convert(root, write(root, data))
    assert [i["file_name"] for i in result.data["images"]] == ["b.png"]
    assert objects(result.data) == (3, 0)
    assert result.findings.kinds["images listed twice, joined"].count == 1


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (None, "file_name of image 1 is missing"),
        ("", "file_name of image 1 is missing"),
        (5, "file_name of image 1 is no text: '5'"),
        (["a.png"], "is no text"),
        ("x" * 300 + ".png", "is no name of a file"),
        ("a\0.png", "is no name of a file"),
    ],
)
def test_messages_about_file_names_say_what_is_wrong(root, name, message):
    data = sample()
    data["images"][0]["file_name"] = name
    path = write(root, data)
    for read in (train, tile):
        with pytest.raises(DatasetError, match=message):
            read(root, path)
    assert len(check_json(path, root / "img", progress=False).clean["images"]) == 1
    assert len(convert(root, path).data["images"]) == 1


@pytest.mark.parametrize("size", [None, "x", 0, 64.5, NAN, [64], 10**30])
def test_sizes_that_are_none_are_filled_in_by_converting(root, size):
    data = sample()
    data["images"][0]["width"] = size
    path = write(root, data)
    for read in (train, tile):
        with pytest.raises(DatasetError, match=r"whole number.*`d2tiny convert coco --images` writes"):
            read(root, path)
    assert [(i["width"], i["height"]) for i in convert(root, path).data["images"]] == [(64, 48)] * 2


# --- whole files -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[" * 100_000, "nested too deep"),
        ('{"images": ' + "[" * 5000 + "]" * 5000 + "}", "nested too deep"),
        ('{"images": NaN, "x": ' + "[" * 5000 + "]" * 5000 + "}", "nested too deep"),
        ('{"x": ' + "9" * 5000 + "}", "too many digits"),
        ('{"x": "\\ud800"}', "half of a surrogate pair"),
        ("null", "expected a COCO object"),
        ('{"images": [], "annotations": {}, "categories": []}', "'annotations' is missing"),
    ],
)
def test_whole_files_that_no_tool_can_use(root, text, message):
    path = write(root, text)
    readers = (train, convert, tile, lambda r, p: load_ground_truth(p), lambda r, p: check_json(p, None))
    for read in readers:
        with pytest.raises(DatasetError, match=message) as raised:
            read(root, path)
        assert "x.json" in str(raised.value)


@pytest.mark.parametrize("area", [64 * 48, 0])
def test_areas_that_cannot_be_are_said_once(root, caplog, area):
    data = sample()
    for annotation in data["annotations"]:
        annotation["area"] = area
    with caplog.at_level(logging.WARNING):
        truth = load_ground_truth(write(root, data))
    assert caplog.text.count("3 of 3 areas do not fit their boxes") == 1
    assert truth.area.tolist() == [area] * 3  # as pycocotools


# --- broken at random ------------------------------------------------------------------------------------------------

NASTY = (
    None, True, 0, -1, 1, 1.5, 2, 1e300, 1e-320, NAN, math.inf, 2**70, "", " ", "x", "1", "1_0", "true", "../a.png",
    "/a.png", "a.png", "a\0", [], [1], [None], [[1, 2]], [1, 2, 3, 4], ["1", "2", "3", "4"], [5, 5, 1e-320, 4],
    [0, 0, 64, 48], {}, {"0": 1, "1": 2, "2": 3, "3": 4}, {"counts": 5, "size": [1, 2]}, [[5, 5, 13, 5, 13, 13]],
    [[1e300, 5, 13, 5, NAN, 13]], "é" * 300, "C:a.png",
)  # fmt: skip
KEYS = ("id", "image_id", "category_id", "bbox", "area", "iscrowd", "ignore", "segmentation", "ignored_regions", "name",
        "ignored_boxes", "width", "height", "file_name", "supercategory", "keypoints", "info", "filename")  # fmt: skip


def broken(seed):
    """Return the sample with one to six changes anywhere."""
    rng, data = random.Random(seed), sample()
    for _ in range(rng.randint(1, 6)):
        part = rng.choice([key for key in data if isinstance(data[key], list) and data[key]] or ["images"])
        entries = data.get(part)
        if not isinstance(entries, list) or not entries or rng.random() < 0.03:
            data[rng.choice(["images", "annotations", "categories", "info"])] = rng.choice(NASTY)
            continue
        entry, action = rng.choice(entries), rng.random()
        if action < 0.1:
            entries.append(rng.choice([*NASTY, entry]))
        elif isinstance(entry, dict) and entry and action < 0.2:
            entry.pop(rng.choice(list(entry)))
        elif isinstance(entry, dict):
            entry[rng.choice([*KEYS, *entry])] = rng.choice(NASTY)
    return data


@pytest.mark.parametrize("first", range(0, 400, 50))
def test_a_fixed_copy_loads_and_no_reader_crashes(root, first):
    """Every reader gives a value or one of our errors; what the check writes is read by all, without a finding."""
    for seed in range(first, first + 50):
        path = write(root, broken(seed))
        for read in (train, convert, lambda r, p: load_ground_truth(p)):
            try:
                result = read(root, path)
            except D2TinyError as err:
                assert str(err)
                continue
            if read is convert:
                write_coco(result.data, root / "converted.json")
                train(root, root / "converted.json")
        with contextlib.suppress(D2TinyError):
            tile(root, path, f"t{seed}")
        try:
            checked = check_json(path, root / "img", progress=False)
        except D2TinyError:
            continue
        write_coco(checked.clean, root / "clean.json")
        kept = len(checked.clean["annotations"])
        assert sum(len(items) for items in train(root, root / "clean.json").values()) == kept + sum(
            len(image.get(key, ())) for image in checked.clean["images"] for key in ("ignored_regions", "ignored_boxes")
        ), seed
        assert len(load_ground_truth(root / "clean.json")) == kept
        assert len(convert(root, root / "clean.json").data["annotations"]) == kept if checked.clean["images"] else True
        again = check_json(root / "clean.json", root / "img", progress=False)
        left = {e["what"] for e in again.findings.to_dict() if e["severity"] != "note"}
        assert left <= {"no image is left", "no object is left"}, (seed, left)


def test_bytes_that_are_no_text_are_refused_with_their_place(tmp_path):
    """Also inside a name, which the fast reader decodes itself."""
    file = tmp_path / "a.json"
    file.write_bytes(b'{"images": [{"id": 1, "file_name": "\xff.png"}], "annotations": [], "categories": []}')
    with pytest.raises(DatasetError, match=r"a\.json is not a valid json file: .*0xff"):
        load_ground_truth(file)
