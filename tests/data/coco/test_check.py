from __future__ import annotations

import json
from copy import deepcopy

import numpy as np
import pytest
from PIL import Image

from d2tiny.data.coco.check import check_dataset, check_json
from d2tiny.data.coco.writer import write_coco
from d2tiny.data.datasets import load_coco_like, register_coco_like
from d2tiny.data.datasets.register import find_source
from d2tiny.utils.errors import ConfigError, DatasetError

NAN, INF = float("nan"), float("inf")


def box(number, bbox, image=1, category=1, **more):
    entry = {"id": number, "image_id": image, "category_id": category, "bbox": bbox, "iscrowd": 0}
    return {**entry, "area": bbox[2] * bbox[3], **more}


@pytest.fixture
def clean(tmp_path):
    """A dataset that nothing is wrong with: noise, so that its files are long enough to be cut short."""
    root = tmp_path / "images"
    (root / "sub").mkdir(parents=True)
    rng = np.random.default_rng(0)
    for name, width, height in (("a.png", 60, 50), ("sub/b.jpg", 100, 80)):
        Image.fromarray(rng.integers(0, 255, (height, width, 3), dtype=np.uint8)).save(root / name)
    return {
        "info": {"year": 2024},
        "images": [
            {"id": 1, "file_name": "a.png", "width": 60, "height": 50},
            {"id": 2, "file_name": "sub/b.jpg", "width": 100, "height": 80},
        ],
        "categories": [{"id": 1, "name": "ship"}, {"id": 2, "name": "car"}],
        "annotations": [box(1, [10, 20, 8, 6]), box(2, [1, 2, 3, 4], 2, 2), box(3, [30, 30, 5, 5], 2)],
    }


def check(tmp_path, data, images=True, **options):
    path = tmp_path / "x.json"
    path.write_text(json.dumps(data))
    before = path.read_bytes()
    checked = check_json(path, tmp_path / "images" if images else None, progress=False, **options)
    assert path.read_bytes() == before
    return checked


def found(findings):
    return {(entry["severity"], entry["what"]): entry["count"] for entry in findings.to_dict()}


def add(*entries):
    return lambda d: d["annotations"].extend(entries)


def edit(part, index, **changes):
    return lambda d: d[part][index].update(changes)


def without(part, index, key):
    return lambda d: d[part][index].pop(key)


EMPTY = ("note", "images without an object")
UNUSED = ("note", "classes without an object")
UNKNOWN_IMAGE = ("warning", "annotations of an unknown image, left out")
SIZE = ("error", "images without a valid width and height, left out")
LEAVES = ("error", "file names that leave the image folder, left out")
NOT_FOUR, NO_AREA, NOT_FINITE, OUTSIDE = (
    ("error", f"boxes {text}, left out")
    for text in ("that are not four numbers", "without area", "with NaN or infinity", "outside their image")
)
REPEAT = ("warning", "boxes that repeat another of their class, once kept")
NEARLY = ("note", "boxes that nearly repeat another of their class (IoU >= 0.9)")
# What is done to the clean data; all that must be found; images, annotations and categories in the clean copy.
CASES = {
    "nothing": (lambda d: None, {}, (2, 3, 2)),
    "NaN": (add(box(4, [1, NAN, 3, 4])), {NOT_FINITE: 1}, (2, 3, 2)),
    "infinite": (add(box(4, [1, 2, INF, 4])), {NOT_FINITE: 1}, (2, 3, 2)),
    "three numbers": (add({**box(4, [1, 2, 3, 4]), "bbox": [1, 2, 3]}), {NOT_FOUR: 1}, (2, 3, 2)),
    "no box": (add({**box(4, [1, 2, 3, 4]), "bbox": None}), {NOT_FOUR: 1}, (2, 3, 2)),
    "zero width": (add(box(4, [1, 2, 0, 4])), {NO_AREA: 1}, (2, 3, 2)),
    "negative height": (add(box(4, [9, 9, 3, -4])), {NO_AREA: 1}, (2, 3, 2)),
    "outside": (add(box(4, [60, 2, 3, 4]), box(5, [-3, 2, 3, 4])), {OUTSIDE: 2}, (2, 3, 2)),
    "over the border": (
        add(box(4, [55, 45, 20, 20]), box(5, [-2, 0, 5, 5])),
        {("warning", "boxes over the image border, clipped"): 2},
        (2, 5, 2),
    ),
    "a hundredth over the border": (add(box(4, [55, 45, 5.005, 5])), {}, (2, 4, 2)),
    "thin": (add(box(4, [1, 2, 0.5, 4])), {("note", "boxes with a side under 1 px"): 1}, (2, 4, 2)),
    "whole image": (add(box(4, [0, 0, 60, 50])), {("note", "boxes as large as their image"): 1}, (2, 4, 2)),
    "repeated": (add(box(4, [10, 20, 8, 6]), box(5, [10, 20, 8, 6])), {REPEAT: 2}, (2, 3, 2)),
    "repeated of another class": (add(box(4, [10, 20, 8, 6], category=2)), {}, (2, 4, 2)),
    "repeated in another image": (add(box(4, [10, 20, 8, 6], image=2)), {}, (2, 4, 2)),
    # a shift of w/19 is an IoU of 18/20 = 0.9
    "nearly repeated": (add(box(4, [1, 1, 19, 9], 2), box(5, [2, 1, 19, 9], 2)), {NEARLY: 1}, (2, 5, 2)),
    "not nearly repeated": (add(box(4, [1, 1, 17, 9], 2), box(5, [2, 1, 17, 9], 2)), {}, (2, 5, 2)),
    "annotation ids": (edit("annotations", 1, id=1), {("warning", "annotations with the id of another"): 2}, (2, 3, 2)),
    "no annotation id": (without("annotations", 1, "id"), {("note", "annotations without an id"): 1}, (2, 3, 2)),
    "no annotation ids": (
        lambda d: [a.pop("id") for a in d["annotations"]],
        {("note", "annotations without an id"): 3},
        (2, 3, 2),
    ),
    "unknown class": (
        edit("annotations", 2, category_id=9),
        {("error", "annotations of unknown classes, left out"): 1},
        (2, 2, 2),
    ),
    "class id is a list": (
        edit("annotations", 2, category_id=[1]),
        {("error", "annotations of unknown classes, left out"): 1},
        (2, 2, 2),
    ),
    "unknown image": (edit("annotations", 2, image_id=9), {UNKNOWN_IMAGE: 1}, (2, 2, 2)),
    "no image id": (without("annotations", 2, "image_id"), {UNKNOWN_IMAGE: 1}, (2, 2, 2)),
    "area too large": (
        edit("annotations", 0, area=5000),
        {("warning", "areas that do not fit their box, replaced by width x height"): 1},
        (2, 3, 2),
    ),
    "area negative": (
        edit("annotations", 0, area=-1),
        {("warning", "areas that do not fit their box, replaced by width x height"): 1},
        (2, 3, 2),
    ),
    "area NaN": (
        edit("annotations", 0, area=NAN),
        {("warning", "areas that do not fit their box, replaced by width x height"): 1},
        (2, 3, 2),
    ),
    "no area": (
        without("annotations", 0, "area"),
        {("note", "annotations without an area, replaced by width x height"): 1},
        (2, 3, 2),
    ),
    "area of a polygon": (edit("annotations", 0, area=30), {}, (2, 3, 2)),
    "ignore disagrees": (
        edit("annotations", 0, ignore=1),
        {("note", "annotations whose ignore and iscrowd disagree"): 1},
        (2, 3, 2),
    ),
    "ignored": (edit("annotations", 0, ignore=1, iscrowd=1), {}, (2, 3, 2)),
    "image ids": (
        edit("images", 1, id=1),
        {("error", "images with the id of another, left out"): 1, UNKNOWN_IMAGE: 2, UNUSED: 1},
        (1, 1, 2),
    ),
    "no image has this id": (
        without("images", 1, "id"),
        {("error", "images without an id, left out"): 1, UNKNOWN_IMAGE: 2, UNUSED: 1},
        (1, 1, 2),
    ),
    "image twice": (
        lambda d: d["images"].append({**d["images"][0], "id": 3, "file_name": "./a.png"}),
        {("error", "images listed twice, left out"): 1},
        (2, 3, 2),
    ),
    "no file name": (
        without("images", 1, "file_name"),
        {("error", "images without a file name, left out"): 1, UNKNOWN_IMAGE: 2, UNUSED: 1},
        (1, 1, 2),
    ),
    "traversal": (
        edit("images", 1, file_name="../sub/b.jpg"),
        {LEAVES: 1, UNKNOWN_IMAGE: 2, UNUSED: 1},
        (1, 1, 2),
    ),
    "absolute": (edit("images", 1, file_name="/etc/b.jpg"), {LEAVES: 1, UNKNOWN_IMAGE: 2, UNUSED: 1}, (1, 1, 2)),
    "drive": (edit("images", 1, file_name="C:\\x\\b.jpg"), {LEAVES: 1, UNKNOWN_IMAGE: 2, UNUSED: 1}, (1, 1, 2)),
    "backslash": (edit("images", 1, file_name="sub\\b.jpg"), {}, (2, 3, 2)),
    "no width": (without("images", 1, "width"), {SIZE: 1, UNKNOWN_IMAGE: 2, UNUSED: 1}, (1, 1, 2)),
    "zero height": (edit("images", 1, height=0), {SIZE: 1, UNKNOWN_IMAGE: 2, UNUSED: 1}, (1, 1, 2)),
    "wrong size": (
        edit("images", 1, width=80, height=100),
        {("error", "images of another size than stated, left out"): 1, UNKNOWN_IMAGE: 2, UNUSED: 1},
        (1, 1, 2),
    ),
    "missing image": (
        edit("images", 1, file_name="sub/c.jpg"),
        {
            ("error", "images missing, left out"): 1,
            ("note", "image files that the json does not list"): 1,
            UNKNOWN_IMAGE: 2,
            UNUSED: 1,
        },
        (1, 1, 2),
    ),
    "class ids": (
        edit("categories", 1, id=1),
        {
            ("error", "categories with the id of another, left out"): 1,
            ("error", "annotations of unknown classes, left out"): 1,
        },
        (2, 2, 1),
    ),
    "no class id": (
        without("categories", 1, "id"),
        {
            ("error", "categories without an id, left out"): 1,
            ("error", "annotations of unknown classes, left out"): 1,
        },
        (2, 2, 1),
    ),
    "no class name": (
        without("categories", 1, "name"),
        {
            ("error", "categories without a name, left out"): 1,
            ("error", "annotations of unknown classes, left out"): 1,
        },
        (2, 2, 1),
    ),
    "class name null": (
        edit("categories", 1, name=None),
        {
            ("error", "categories without a name, left out"): 1,
            ("error", "annotations of unknown classes, left out"): 1,
        },
        (2, 2, 1),
    ),
    "blanks": (
        edit("categories", 1, name=" car"),
        {("warning", "category names with blanks around them"): 1},
        (2, 3, 2),
    ),
    "unused class": (lambda d: d["categories"].append({"id": 3, "name": "bus"}), {UNUSED: 1}, (2, 3, 3)),
    "empty image": (lambda d: d["annotations"].__delitem__(0), {EMPTY: 1}, (2, 2, 2)),
    "no object": (
        lambda d: d["annotations"].clear(),
        {("error", "no object is left"): 1, EMPTY: 2, UNUSED: 2},
        (2, 0, 2),
    ),
    "no image": (
        lambda d: d["images"].clear(),
        {("error", "no image is left"): 1, UNKNOWN_IMAGE: 3, UNUSED: 2},
        (0, 0, 2),
    ),
    "odd keys": (
        lambda d: d.update(annotation=d.pop("annotations")),
        {("note", "keys that COCO names otherwise"): 1},
        (2, 3, 2),
    ),
    "entries no objects": (
        lambda d: d["annotations"].extend(["x", 3]),
        {("warning", "entries that are no objects, left out"): 2},
        (2, 3, 2),
    ),
}


@pytest.mark.parametrize(("change", "kinds", "left"), CASES.values(), ids=CASES)
def test_findings_and_the_clean_copy(tmp_path, clean, change, kinds, left):
    """Exactly these are found; the clean copy has no error, and the loader takes it without a complaint."""
    change(clean)
    checked = check(tmp_path, clean)
    assert found(checked.findings) == kinds
    copy = checked.clean
    assert (len(copy["images"]), len(copy["annotations"]), len(copy["categories"])) == left
    assert copy["info"] == {"year": 2024}
    write_coco(copy, tmp_path / "clean.json")
    if not any("is left" in what for _, what in kinds):
        again = check_json(tmp_path / "clean.json", tmp_path / "images", progress=False)
        assert not again.findings.count("error") + again.findings.count("warning"), str(again.findings)
        ids = [a.get("id") for a in copy["annotations"]]
        assert None not in ids
        assert len(set(ids)) == len(ids)
        name = f"clean_{tmp_path.name}"
        register_coco_like(name, tmp_path / "clean.json", tmp_path / "images")
        assert sum(len(r["annotations"]) for r in load_coco_like(find_source(name))) == left[1]


def test_categories_of_one_name_become_one(tmp_path, clean):
    """The annotations of both stay; the clean copy names the class once."""
    clean["categories"][1]["name"] = "ship "
    checked = check(tmp_path, clean)
    assert found(checked.findings) == {
        ("error", "categories with the name of another"): 1,
        ("warning", "category names with blanks around them"): 1,
    }
    write_coco(checked.clean, tmp_path / "clean.json")
    again = check_json(tmp_path / "clean.json", tmp_path / "images", progress=False)
    assert not again.findings
    assert len(again.clean["annotations"]) == 3


@pytest.mark.parametrize(
    ("change", "what"),
    [
        (lambda d: [c.update(id=f"c{c['id']}") for c in d["categories"]], "category"),
        (edit("images", 1, id="1"), "image id"),
        (edit("categories", 0, id=[1]), "category"),
    ],
    ids=["class ids as words", "image ids 1 and '1'", "class id is a list"],
)
def test_what_the_loader_refuses_is_found(tmp_path, clean, change, what):
    """A file that passes the check can be trained on."""
    change(clean)
    for annotation in clean["annotations"]:
        annotation["category_id"] = clean["categories"][annotation["category_id"] - 1]["id"]
        annotation["image_id"] = clean["images"][annotation["image_id"] - 1]["id"]
    checked = check(tmp_path, clean)
    name = f"refused_{tmp_path.name}"
    register_coco_like(name, tmp_path / "x.json", tmp_path / "images")
    with pytest.raises(DatasetError, match=what):
        load_coco_like(find_source(name))
    assert checked.findings.count("error"), found(checked.findings)


def test_values_in_the_clean_copy(tmp_path, clean):
    """[55, 45, 20, 20] in 60×50 px leaves 5×5; an area of a polygon stays, but not above its clipped box."""
    clean["annotations"] = [
        box(7, [55, 45, 20, 20]),
        box(7, [-2, 0, 5, 5], ignore=1),
        box(8, [1, 2, 3, 4], area=7, segmentation=[[1, 2, 4, 2, 4, 6]]),
        box(9, [20, 20, 10, 10], iscrowd=1, area=999),
        box(9, ["20", 20, 9, 9], 2),
    ]
    checked = check(tmp_path, clean)
    assert checked.clean["annotations"] == [
        box(1, [55, 45, 5, 5], ignore=0),
        box(2, [0, 0, 3, 5], iscrowd=1, ignore=1),
        box(3, [1, 2, 3, 4], area=7, ignore=0, segmentation=[[1, 2, 4, 2, 4, 6]]),
        box(4, [20, 20, 10, 10], iscrowd=1, ignore=1),
        box(5, [20, 20, 9, 9], 2, ignore=0),
    ]


def test_a_real_object_is_not_dropped_for_an_ignored_one(tmp_path, clean):
    """The ignored region comes first in the file; both are the same box."""
    clean["annotations"].insert(0, box(4, [10, 20, 8, 6], ignore=1, iscrowd=1))
    kept = check(tmp_path, clean).clean["annotations"]
    assert [a["iscrowd"] for a in kept if a["bbox"] == [10, 20, 8, 6]][-1] == 0


@pytest.mark.parametrize(
    "change",
    [
        edit("annotations", 0, segmentation=[[1, NAN, 3, 4, 5, 6]]),
        edit("annotations", 0, score=NAN),
        edit("images", 0, ignored_regions=[[1, 2, NAN, 4]]),
        edit("info", "year", value=INF),
    ],
    ids=["segmentation", "score", "region", "info"],
)
def test_nan_anywhere_is_found_and_the_clean_copy_can_be_written(tmp_path, clean, change):
    clean["info"] = {"year": {}}
    change(clean)
    checked = check(tmp_path, clean)
    assert checked.findings
    write_coco(checked.clean, tmp_path / "clean.json")


@pytest.mark.parametrize("regions", [None, [[1, 2, 3]], [[1, 2, -3, 4]], [[500, 2, 3, 4]], "x"])
def test_ignored_regions_are_checked_too(tmp_path, clean, regions):
    clean["images"][0]["ignored_regions"] = regions
    checked = check(tmp_path, clean)
    assert checked.findings
    write_coco(checked.clean, tmp_path / "clean.json")
    name = f"regions_{tmp_path.name}"
    register_coco_like(name, tmp_path / "clean.json", tmp_path / "images")
    assert sum(len(r["annotations"]) for r in load_coco_like(find_source(name))) == 3


# --- image files -------------------------------------------------------------------------------------------------


def damage_middle(data):
    """Flip bytes of the pixel data of a PNG; its header and end stay."""
    middle = len(data) // 2
    return data[:middle] + bytes(255 - b for b in data[middle : middle + 200]) + data[middle + 200 :]


@pytest.mark.parametrize(
    ("file", "change", "decode", "kind"),
    [
        ("a.png", lambda b: b[: len(b) // 2], False, "images cut short, left out"),
        ("sub/b.jpg", lambda b: b[: len(b) // 2], False, "images cut short, left out"),
        ("a.png", lambda b: b[:20], False, "images unreadable, left out"),
        ("sub/b.jpg", lambda b: b"", False, "images unreadable, left out"),
        ("sub/b.jpg", lambda b: b"<html>404</html>", False, "images unreadable, left out"),
        ("a.png", damage_middle, True, "images damaged, left out"),
        ("a.png", damage_middle, False, None),
        ("sub/b.jpg", lambda b: b + bytes(100), False, None),  # padding after the end is usual
        ("sub/b.jpg", lambda b: b + b"x" * 9000, False, None),  # as is another file behind it
    ],
)
def test_damaged_images(tmp_path, clean, file, change, decode, kind):
    path = tmp_path / "images" / file
    path.write_bytes(change(path.read_bytes()))
    before = path.read_bytes()
    checked = check(tmp_path, clean, decode=decode)
    assert path.read_bytes() == before
    if kind is None:
        assert not checked.findings
        return
    assert found(checked.findings)["error", kind] == 1
    assert f"{path}: " in checked.findings.to_dict()[0]["examples"][0]
    assert [i["file_name"] for i in checked.clean["images"]] == [n for n in ("a.png", "sub/b.jpg") if n != file]
    assert not check_dataset(deepcopy(checked.clean), tmp_path / "images", progress=False).findings.count("error")


def test_image_with_damaged_exif(tmp_path, clean):
    """Such a file decodes; it must not stop the check."""
    Image.new("RGB", (100, 80)).save(tmp_path / "images/sub/b.jpg", exif=b"Exif\0\0no tiff at all")
    assert not check(tmp_path, clean).findings.count("error")


def test_files_that_the_json_does_not_list(tmp_path, clean):
    """Only images, only in folders that the json uses."""
    for name in ("sub/new.JPG", "new.tif", "notes.txt", "other/c.png"):
        path = tmp_path / "images" / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"")
    (entry,) = check(tmp_path, clean).findings.to_dict()
    assert (entry["what"], entry["count"]) == ("image files that the json does not list", 2)
    assert entry["examples"] == ["new.tif", "sub/new.JPG"]


def test_without_an_image_folder_no_file_is_looked_at(tmp_path, clean):
    clean["images"][0]["file_name"] = "missing.png"
    assert not check(tmp_path, clean, images=False).findings


# --- what is no dataset, and the report --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"images": [', "not a valid json file.*Is it complete"),
        ("[]", "expected a COCO object"),
        ('{"images": [], "annotations": []}', "'categories' is missing"),
        ('{"images": {}, "annotations": [], "categories": []}', "'images' is missing"),
        ("\ufeff" + '{"images": [], "annotations": []}', "'categories' is missing"),
        ("", "not a valid json"),
        ("\x89PNG", "not a valid json"),
    ],
)
def test_no_dataset_at_all(tmp_path, text, message):
    path = tmp_path / "x.json"
    path.write_bytes(text.encode("latin-1" if text.startswith("\x89") else "utf-8"))
    with pytest.raises(DatasetError, match=message) as raised:
        check_json(path, None)
    assert "x.json" in str(raised.value)


def test_missing_files_and_folders(tmp_path):
    with pytest.raises(DatasetError, match=r"x.json: no such file"):
        check_json(tmp_path / "x.json", None)
    with pytest.raises(DatasetError, match="is a folder, not a json file"):
        check_json(tmp_path, None)
    with pytest.raises(ConfigError, match=r"--images .*nowhere: no such folder"):
        check_json(tmp_path / "x.json", tmp_path / "nowhere")


def test_a_folder_with_none_of_the_images_is_refused(tmp_path, clean):
    """One cause is one message, not one for each image and annotation."""
    (tmp_path / "others").mkdir()
    path = tmp_path / "x.json"
    path.write_text(json.dumps(clean))
    with pytest.raises(ConfigError, match=r"others: none of the 2 image files is there, for example 'a.png'"):
        check_json(path, tmp_path / "others", progress=False)


def test_the_report_counts_and_shows_five_examples(tmp_path, clean):
    add(*(box(10 + i, [1, 2, 0, 4]) for i in range(9)), box(30, [55, 45, 20, 20]))(clean)
    findings = check(tmp_path, clean).findings
    worst, second = findings.to_dict()
    assert (worst["severity"], worst["count"], len(worst["examples"])) == ("error", 9, 5)
    assert worst["examples"][0] == "annotation 10 of image 1: [1, 2, 0, 4]"
    assert second["severity"] == "warning"
    assert (findings.count("error"), findings.count("warning"), findings.count("note")) == (9, 1, 0)
    assert str(findings).startswith(
        "9 boxes without area, left out (first: annotation 10 of image 1: [1, 2, 0, 4]); 1 b"
    )
    assert findings.table().count("annotation 1") == 5
