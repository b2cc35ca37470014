from __future__ import annotations

import json
import struct
import zlib

import pytest
from PIL import Image

from d2tiny.data.coco.check import check_dataset
from d2tiny.data.coco.writer import write_coco
from d2tiny.data.datasets import VISDRONE_CLASSES, DatasetSource, load_coco_like, register_coco_like
from d2tiny.data.datasets.register import find_source
from d2tiny.data.tools.converters import FORMATS
from d2tiny.utils.errors import ConfigError, DatasetError
from tests.helpers.hituav import write_hituav
from tests.helpers.native import GOOD, LAYOUT, QUAD, convert, found, native, objects, picture, voc_object, voc_xml


def coco_json(root, change=lambda data: None, name="x.json"):
    """A json whose two images exist; ``change`` breaks it in place."""
    for stem in "ab":
        picture(root / f"{stem}.png")
    data = {
        "images": [{"id": i, "file_name": f"{s}.png", "width": 100, "height": 80} for i, s in ((7, "a"), (9, "b"))],
        "categories": [{"id": 5, "name": "ship "}, {"id": 2, "name": "car"}],
        "annotations": [
            {"id": 0, "image_id": 7, "category_id": 5, "bbox": [10, 20, 8, 6], "area": 30, "iscrowd": 0},
            {"id": 1, "image_id": 9, "category_id": 2, "bbox": [1, 2, 3, 4], "area": 12, "iscrowd": 0},
        ],
    }
    change(data)
    (root / name).write_text(json.dumps(data))
    return root / name


# --- every format, by hand ---------------------------------------------------------------------------------------


def test_visdrone_by_hand(tmp_path):
    """Byte-order mark, CRLF, trailing comma and blank line, as in the genuine files.

    The "others" box reaches 20 px from (90, 70) in a 100×80 image: 10×10 are left of it.
    """
    text = (
        "\ufeff10,20,8,6,1,4,0,1\r\n30,5,4,9,1,1,1,2,\r\n\r\n"
        "50,60,5,4,0,10,0,0\r\n0,0,40,30,0,0,0,0\r\n90,70,20,20,0,11,0,0\r\n"
    )
    result = convert("visdrone", native(tmp_path, "visdrone", {"b": "", "a": text}))
    assert result.root == tmp_path / "images"
    assert not result.findings
    assert result.data["images"] == [
        {"id": 1, "file_name": "a.jpg", "width": 100, "height": 80}
        | {"ignored_regions": [[0, 0, 40, 30]], "ignored_boxes": [[90, 70, 10, 10]]},
        {"id": 2, "file_name": "b.jpg", "width": 100, "height": 80},
    ]
    standard = {"image_id": 1, "iscrowd": 0, "ignore": 0, "truncation": 0, "occlusion": 0}
    assert result.data["annotations"] == [
        {**standard, "id": 1, "category_id": 4, "bbox": [10, 20, 8, 6], "area": 48, "occlusion": 1},
        {**standard, "id": 2, "category_id": 1, "bbox": [30, 5, 4, 9], "area": 36, "truncation": 1, "occlusion": 2},
        {**standard, "id": 3, "category_id": 10, "bbox": [50, 60, 5, 4], "area": 20, "iscrowd": 1, "ignore": 1},
    ]
    assert [(c["id"], c["name"]) for c in result.data["categories"]] == list(enumerate(VISDRONE_CLASSES, start=1))
    assert result.summary() == "2 images, 2 objects of 10 classes, 3 ignored objects and regions"


@pytest.mark.parametrize(("options", "area"), [({}, 150), ({"area": "polygon"}, 150), ({"area": "hbb"}, 200)])
def test_dota_by_hand(tmp_path, options, area):
    text = f"imagesource:GoogleEarth\ngsd:0.12\nacquisition dates:2016-05-04\n\n{QUAD} harbor 0\n{QUAD} helipad\n"
    result = convert("dota", native(tmp_path, "dota", {"P0001": text}), **options)
    assert not result.findings
    (image,) = result.data["images"]
    assert image == {"id": 1, "file_name": "P0001.png", "width": 100, "height": 80, "gsd": 0.12}
    expected = {"bbox": [5, 10, 20, 10], "area": area, "segmentation": [[10, 10, 20, 10, 25, 20, 5, 20]]}
    for annotation, category in zip(result.data["annotations"], (13, 18), strict=True):
        assert annotation.items() >= {**expected, "category_id": category, "difficult": 0, "iscrowd": 0}.items()


@pytest.mark.parametrize(
    ("options", "ignored"),
    [
        ({}, [0, 0, 1, 1]),
        ({"difficult": "ignore", "cut": "keep"}, [0, 1, 0, 0]),
        ({"difficult": "drop"}, [0, 1, 1]),
        ({"cut": "drop"}, [0, 0]),
        ({"difficult": "drop", "cut": "drop"}, [0]),
    ],
)
def test_dota_difficult_and_cut_objects(tmp_path, options, ignored):
    """Levels 0, 1 (difficult), 2 and 3 (cut by the splitter); what is dropped is counted."""
    text = "".join(f"{QUAD} ship {level}\n" for level in range(4))
    result = convert("dota", native(tmp_path, "dota", {"a": text}), **options)
    assert [a["iscrowd"] for a in result.data["annotations"]] == ignored
    dropped = {("note", "difficult objects, dropped as asked"): 4 - len(ignored)} if len(ignored) < 4 else {}
    assert found(result.findings) == dropped


@pytest.mark.parametrize(("options", "corner"), [({}, (11, 21)), ({"minus_one": True}, (10, 20))])
def test_voc_by_hand(tmp_path, options, corner):
    """Corners (11, 21)-(31, 41): 20×20; with ``minus_one`` all four coordinates fall by one."""
    text = voc_xml(voc_object(), voc_object(" car ", (1, 1, 3, 5), 1), voc_object("car", (1, 1, 3, 5), 0))
    result = convert("voc", native(tmp_path, "voc", {"a": text}), **options)
    assert not result.findings
    low = 1 - bool(options)
    assert objects(result) == [
        ("a.jpg", "ship", (*corner, 20, 20), 400, 0),
        ("a.jpg", "car", (low, low, 2, 4), 8, 1),
        ("a.jpg", "car", (low, low, 2, 4), 8, 0),
    ]
    assert [c["name"] for c in result.data["categories"]] == ["car", "ship"]  # those that occur, by name
    assert [a["difficult"] for a in result.data["annotations"]] == [0, 1, 0]


def test_voc_splits(tmp_path):
    """A list may carry a second column, endings, blank lines and CRLF; its order is kept."""
    native(tmp_path, "voc", {stem: voc_xml(voc_object(), filename=f"{stem}.jpg") for stem in "abc"})
    lists = tmp_path / "ImageSets" / "Main"
    lists.mkdir(parents=True)
    (lists / "train.txt").write_bytes(b"\xef\xbb\xbfc  1\r\n\r\na.jpg -1\r\n")
    (lists / "test.txt").write_text("a\nzz\n")
    result = convert("voc", tmp_path, split="train")
    assert [i["file_name"] for i in result.data["images"]] == ["c.jpg", "a.jpg"]
    assert not result.findings
    assert len(convert("voc", tmp_path).data["images"]) == 3
    missing = convert("voc", tmp_path, split="test")
    assert found(missing.findings) == {("error", "images without a label file, left out"): 1}
    assert "zz.xml" in str(missing.findings)
    with pytest.raises(DatasetError, match=r"No list of the split 'val' \(looked for .*ImageSets/Main/val.txt"):
        convert("voc", tmp_path, split="val")


def test_voc_lists_with_dots_in_names_and_names_twice(tmp_path):
    """Roboflow's names hold dots; one image never becomes two."""
    stem = "0a4c_png_jpg.rf.0d86"
    native(tmp_path, "voc", {stem: voc_xml(voc_object(), filename=f"{stem}.jpg")})
    (tmp_path / "ImageSets").mkdir()
    (tmp_path / "ImageSets" / "train.txt").write_text(f"{stem}\n{stem}\n")
    result = convert("voc", tmp_path, split="train")
    assert [i["file_name"] for i in result.data["images"]] == [f"{stem}.jpg"]


def test_dior_by_hand(tmp_path):
    """Two image folders, file names relative to the dataset, DIOR's own twenty classes."""
    native(tmp_path, "dior", {"00001": voc_xml(voc_object("Expressway-Service-area"), filename="00001.jpg")})
    picture(tmp_path / "JPEGImages-test" / "11726.jpg")
    labels = tmp_path / LAYOUT["dior"][1]
    (labels / "11726.xml").write_text(voc_xml(voc_object("windmill"), filename="11726.jpg"))
    result = convert("dior", tmp_path)
    assert not result.findings
    assert result.root == tmp_path
    assert [i["file_name"] for i in result.data["images"]] == [
        "JPEGImages-trainval/00001.jpg",
        "JPEGImages-test/11726.jpg",
    ]
    assert [a["category_id"] for a in result.data["annotations"]] == [8, 20]
    assert len(result.data["categories"]) == 20
    only = convert("dior", tmp_path, images=tmp_path / "JPEGImages-test", labels=labels)
    assert [i["file_name"] for i in only.data["images"]] == ["11726.jpg"]


def test_yolo_by_hand(tmp_path):
    """100×80 px: centre (.5, .5), size (.2, .1) is 20×8 at (40, 36); a fifth number is a confidence.

    The polygon reaches from .1 to .3 across and from .1 to .5 down: 20×32 at (10, 8).
    """
    text = "\ufeff1 0.5 0.5 0.2 0.1\r\n\r\n0 0.5 0.5 0.2 0.1 0.87\r\n0 .1 .1 .3 .1 .3 .5 .2 .4 .1 .5\r\n"
    result = convert("yolo", native(tmp_path, "yolo", {"a": text, "b": ""}))
    assert not result.findings
    assert [(o[1], pytest.approx(o[2])) for o in objects(result)] == [
        ("ship", (40, 36, 20, 8)),
        ("car", (40, 36, 20, 8)),
        ("car", (10, 8, 20, 32)),
    ]
    assert [c["name"] for c in result.data["categories"]] == ["car", "ship"]
    assert len(result.data["images"]) == 2


@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("classes.txt", "\ufeffcar\r\nship\r\n"),
        ("obj.names", "car\nship\n\n"),
        ("data.yaml", "train: images\nnc: 2\nnames: [car, ship ]\n"),
        ("own.yml", "names:\n  1: ship\n  0: car\n"),
        ("../data.yaml", "names:\n  0: car\n  1: ship\n"),
    ],
)
def test_yolo_class_names(tmp_path, file, text):
    """In the folder or the one above, in every form that tools write; texts lie beside the images."""
    root = tmp_path / "set"
    picture(root / "a.png")
    (root / "a.txt").write_text("1 0.5 0.5 0.2 0.1\n")
    (root / file).write_text(text)
    result = convert("yolo", root)
    assert [c["name"] for c in result.data["categories"]] == ["car", "ship"]
    assert [o[1] for o in objects(result)] == ["ship"]
    assert not result.findings


def test_yolo_names_that_skip_a_number(tmp_path):
    """Class 2 is the bus although nobody named class 1."""
    picture(tmp_path / "a.png")
    (tmp_path / "a.txt").write_text("2 0.5 0.5 0.2 0.1\n")
    (tmp_path / "data.yaml").write_text("names: {0: car, 2: bus}\n")
    assert [o[1] for o in objects(convert("yolo", tmp_path))] == ["bus"]


def test_yolo_without_class_names(tmp_path):
    root = tmp_path / "sets" / "train"  # nothing in the folder above either
    picture(root / "a.png")
    (root / "a.txt").write_text("1 0.5 0.5 0.2 0.1\n")
    with pytest.raises(DatasetError, match=r"no classes.txt, obj.names or data.yaml.*Give them with --classes"):
        convert("yolo", root)
    assert [o[1] for o in objects(convert("yolo", root, classes=["car", "ship"]))] == ["ship"]
    # they are given, so the error above would be wrong
    renamed = convert("yolo", root, classes=["car", "ship"], rename={"automobile": "car"})
    assert [o[1] for o in objects(renamed)] == ["ship"]


def test_coco_with_odd_keys_by_hand(tmp_path):
    """HIT-UAV's keys (annotation, filename), ids as texts, blanks in names, an area larger than its box."""

    def change(data):
        data["annotation"] = data.pop("annotations")
        for image in data["images"]:
            image["filename"] = image.pop("file_name")
        data["categories"].append({"id": 30, "name": "unused"})
        data["annotation"].append({"id": 0, "image_id": 9, "category_id": 5, "bbox": ["1", 2, 5, 4], "area": 999})
        data["annotation"].append({"id": 0, "image_id": 9, "category_id": 5, "bbox": [9, 9, 5, 4], "ignore": 1})

    result = convert("coco", coco_json(tmp_path, change))
    assert objects(result) == [
        ("a.png", "ship", (10, 20, 8, 6), 30, 0),
        ("b.png", "car", (1, 2, 3, 4), 12, 0),
        ("b.png", "ship", (1, 2, 5, 4), 20, 0),
        ("b.png", "ship", (9, 9, 5, 4), 20, 1),
    ]
    assert result.data["categories"] == [
        {"id": 1, "name": "car"},
        {"id": 2, "name": "ship"},
        {"id": 3, "name": "unused"},
    ]
    assert [a["id"] for a in result.data["annotations"]] == [1, 2, 3, 4]
    assert found(result.findings) == {
        ("note", "keys that COCO names otherwise"): 3,
        ("warning", "areas that do not fit their box, replaced by width x height"): 1,
    }


def test_coco_keeps_other_keys_in_their_order_and_regions(tmp_path):
    extra = {key: i for i, key in enumerate("zyxwvutsrq")}

    def change(data):
        data["images"][0] |= extra | {"ignored_regions": [[90, 0, 20, 10]], "ignored_boxes": [[1, 1, 2, 2]]}
        data["annotations"][0] |= extra

    image, annotation = (convert("coco", coco_json(tmp_path, change)).data[k][0] for k in ("images", "annotations"))
    assert image["ignored_regions"] == [[90, 0, 10, 10]]
    assert image["ignored_boxes"] == [[1, 1, 2, 2]]
    for entry in (image, annotation):
        assert {k: entry[k] for k in extra} == extra
        assert [k for k in entry if k in extra] == list(extra)  # the same file in every run


def test_aitod_has_its_eight_classes(tmp_path):
    path = coco_json(tmp_path, lambda d: d["categories"][1].update(name=" person"))
    result = convert("aitod", path)
    assert len(result.data["categories"]) == 8
    assert [(a["category_id"], o[1]) for a, o in zip(result.data["annotations"], objects(result), strict=True)] == [
        (4, "ship"),
        (7, "person"),
    ]
    strange = convert("aitod", coco_json(tmp_path))
    assert found(strange.findings) == {("error", "objects of unknown classes, left out"): 1}
    assert len(convert("aitod", coco_json(tmp_path), rename={"car": "vehicle"}).data["annotations"]) == 2


# --- classes -----------------------------------------------------------------------------------------------------


def test_classes_can_be_chosen_renamed_and_ignored(tmp_path):
    text = "".join(f"{10 * i},20,8,6,1,{i},0,0\n" for i in range(1, 7))
    native(tmp_path, "visdrone", {"a": text})
    result = convert(
        "visdrone",
        tmp_path,
        classes=["car", "person"],
        rename={"pedestrian": "person", "people": "person"},
        ignore_classes=["bicycle", "van"],
    )
    assert result.data["categories"] == [{"id": 1, "name": "car"}, {"id": 2, "name": "person"}]
    assert [(o[1], o[2][0]) for o in objects(result)] == [("person", 10), ("person", 20), ("car", 40)]
    assert result.data["images"][0]["ignored_boxes"] == [[30, 20, 8, 6], [50, 20, 8, 6]]
    assert found(result.findings) == {
        ("error", "objects of unknown classes, left out"): 1,
        ("note", "objects of ignored classes"): 2,
    }


def test_renaming_joins_classes_and_ignoring_takes_them_out(tmp_path):
    native(tmp_path, "visdrone", {"a": "1,2,3,4,1,2,0,0\n1,2,3,4,1,9,0,0\n"})
    result = convert("visdrone", tmp_path, rename={"people": "pedestrian"}, ignore_classes=["bus"])
    names = [c["name"] for c in result.data["categories"]]
    assert names == [n for n in VISDRONE_CLASSES if n not in ("people", "bus")]
    assert [o[1] for o in objects(result)] == ["pedestrian"]
    native(tmp_path / "voc", "voc", {"a": voc_xml(voc_object("Car"), voc_object("dirt"))})
    free = convert("voc", tmp_path / "voc", rename={"Car": "car"}, ignore_classes=["dirt"])
    assert [c["name"] for c in free.data["categories"]] == ["car"]
    named = convert("coco", coco_json(tmp_path), rename={"car": "ship"})
    assert [c["name"] for c in named.data["categories"]] == ["ship"]
    assert len(named.data["annotations"]) == 2


# --- what is wrong is counted, and the rest converts -------------------------------------------------------------

AREA, NAN, OUTSIDE, BORDER, UNKNOWN = (
    ("warning", "boxes without area, left out"),
    ("warning", "boxes with NaN or infinity, left out"),
    ("warning", "boxes outside their image, left out"),
    ("note", "boxes over the image border, kept as they are"),
    ("error", "objects of unknown classes, left out"),
)
EIGHT = ("warning", "lines that are not eight numbers, left out")
VIDEO = ("error", "lines of nine or ten columns (VisDrone-VID, VisDrone-MOT, UAVDT), left out")
QUADS = ("warning", "lines that are not eight numbers and a class, left out")
CORNERS = ("warning", "objects without four numbers in their bndbox, left out")
SHARES = ("warning", "lines that are not a class and a box or polygon, left out")
LINES = [
    ("visdrone", "1,2,3", EIGHT),
    ("visdrone", "left,top,width,height,score,category,truncation,occlusion", EIGHT),
    ("visdrone", "1 2 3 4 1 4 0 0", EIGHT),
    ("visdrone", "1,2,3,4,1,nan,0,0", EIGHT),
    ("visdrone", "1,2,3,4,1,inf,0,0", EIGHT),
    ("visdrone", "1,2,3,4,1,4,nan,0", EIGHT),
    ("visdrone", "1,2,3,4,1,4", EIGHT),
    ("visdrone", "1,2,3,4,1,4,0", EIGHT),
    ("visdrone", "1,2,3,4,1,4,0,0,0", VIDEO),
    ("visdrone", "1,0,10,10,8,8,1,4,0,0", VIDEO),
    ("visdrone", "1,2,3,4,1,4,0,0,0,0,0", EIGHT),
    ("visdrone", "1,2,1_23,4,1,4,0,0", EIGHT),
    ("visdrone", "1,2,3,4,1,4.7,0,0", EIGHT),
    ("visdrone", "1,2,3,4,1,4,0.5,0", EIGHT),
    ("visdrone", "1,2,3,4,nan,4,0,0", EIGHT),
    ("visdrone", "1,2,3,4,1,12,0,0", UNKNOWN),
    ("visdrone", "1,2,3,4,1,-1,0,0", UNKNOWN),
    ("visdrone", "1,2,0,4,1,4,0,0", AREA),
    ("visdrone", "9,9,-3,4,1,4,0,0", AREA),
    ("visdrone", "nan,2,3,4,1,4,0,0", NAN),
    ("visdrone", "1,2,inf,4,1,4,0,0", NAN),
    ("visdrone", "100,2,3,4,1,4,0,0", OUTSIDE),
    ("visdrone", "-3,2,3,4,1,4,0,0", OUTSIDE),
    ("visdrone", "96,2,9,4,1,4,0,0", BORDER),
    ("visdrone", "1,2,nan,4,0,0,0,0", NAN),
    ("visdrone", "1,2,0,4,0,11,0,0", AREA),
    ("dota", "1 2 3", ("warning", "lines with fewer than nine words, left out")),
    ("dota", "gds:0.3", ("warning", "lines with fewer than nine words, left out")),
    ("dota", "gsd:nan", ("note", "images without ground sampling distance")),
    ("dota", "gsd:-1", ("note", "images without ground sampling distance")),
    ("dota", "gsd:1_2", ("note", "images without ground sampling distance")),
    ("dota", f"{QUAD} ship 0 1", QUADS),
    ("dota", f"{QUAD} ship 1_0", QUADS),
    ("dota", "1_0 10 20 10 25 20 5 20 ship 0", QUADS),
    ("dota", "0 0 1e300 0 1e300 1e300 0 1e300 ship 0", ("warning", "boxes larger than any image, left out")),
    ("dota", "gsd:null", ("note", "images without ground sampling distance")),
    ("dota", "x 10 20 10 25 20 5 20 ship 0", QUADS),
    ("dota", f"{QUAD} ship yes", QUADS),
    ("dota", "x1 y1 x2 y2 x3 y3 x4 y4 category difficult", QUADS),
    ("dota", f"{QUAD} ufo 0", UNKNOWN),
    ("dota", "10 10 10 10 10 10 10 10 ship 0", AREA),
    ("dota", "10 10 20 20 30 30 40 40 ship 0", AREA),
    ("dota", "nan 10 20 10 25 20 5 20 ship 0", NAN),
    ("dota", "10 10 nan 10 25 20 5 20 ship 0", NAN),
    ("dota", "10 10 20 10 25 inf 5 20 ship 0", NAN),
    ("dota", "110 10 120 10 120 20 110 20 ship 0", OUTSIDE),
    ("dota", "90 10 120 10 120 20 90 20 ship 0", BORDER),
    ("voc", "<object><name>ship</name></object>", CORNERS),
    ("voc", voc_object(corners=(1, "", 3, 4)), CORNERS),
    ("voc", voc_object(corners=(1, "two", 3, 4)), CORNERS),
    ("voc", voc_object(corners=(1, "1_0", 3, 14)), CORNERS),
    ("voc", voc_object(corners=(1, "１", 3, 14)), CORNERS),
    ("voc", voc_object(name=""), ("warning", "objects without a name, left out")),
    ("voc", voc_object(corners=(9, 2, 9, 4)), AREA),
    ("voc", voc_object(corners=(9, 2, 1, 4)), AREA),
    ("voc", voc_object(corners=("NaN", 2, 9, 4)), NAN),
    ("voc", voc_object(corners=(101, 2, 109, 4)), OUTSIDE),
    ("voc", voc_object(corners=(91, 2, 109, 4)), BORDER),
    ("yolo", "0 0.5 0.5", SHARES),
    ("yolo", "car 0.5 0.5 0.1 0.1", SHARES),
    ("yolo", "nan 0.5 0.5 0.1 0.1", SHARES),
    ("yolo", "inf 0.5 0.5 0.1 0.1", SHARES),
    ("yolo", "0 0.5 0.5 0.1 0.1 0.3 0.3 0.2", SHARES),
    ("yolo", "0 0.5 0.5 0.1_5 0.1", SHARES),
    ("yolo", "0.7 0.5 0.5 0.1 0.1", SHARES),
    ("yolo", f"{'9' * 5000} 0.5 0.5 0.1 0.1", SHARES),
    ("yolo", "2 0.5 0.5 0.1 0.1", UNKNOWN),
    ("yolo", "-1 0.5 0.5 0.1 0.1", UNKNOWN),
    ("yolo", "0 50 40 20 10", ("error", "boxes that are not shares of the image, left out")),
    ("yolo", "0 .1 .1 .3 .1 30 40 .1 .5", ("error", "boxes that are not shares of the image, left out")),
    ("yolo", "0 0.5 0.5 0 0.1", AREA),
    ("yolo", "0 0.5 0.5 -0.2 0.1", AREA),
    ("yolo", "0 nan 0.5 0.2 0.1", NAN),
    ("yolo", "0 .1 .1 .3 .1 nan .5 .1 .5", NAN),
    ("yolo", "0 1.5 0.5 0.2 0.1", OUTSIDE),
    ("yolo", "0 0.95 0.5 0.2 0.1", BORDER),
]


@pytest.mark.parametrize(("name", "line", "kind"), LINES, ids=[f"{n}: {line[:60]}" for n, line, _ in LINES])
def test_a_broken_line_is_counted_and_the_rest_converts(tmp_path, name, line, kind):
    good = GOOD[name]
    if name == "voc":
        labels = {"a": voc_xml(good), "b": voc_xml(good, line, good, filename="b.jpg")}
    else:
        labels = {"a": good, "b": f"{good}{line}\n{good}"}
    result = convert(name, native(tmp_path, name, labels))
    assert found(result.findings) == {kind: 1}
    kept = objects(result)
    assert len(kept) == 3 + (kind == BORDER)
    assert kept[0][1:] == kept[1][1:] == kept[-1][1:]  # the good ones
    write_coco(result.data, tmp_path / "out.json")  # no NaN is left
    assert "b." in str(result.findings)


@pytest.mark.parametrize("name", ["visdrone", "dota", "yolo"])
def test_line_numbers_are_those_of_an_editor(tmp_path, name):
    result = convert(name, native(tmp_path, name, {"a": f"\n{GOOD[name]}\n\nnonsense\n"}))
    assert "a.txt, line 5: 'nonsense'" in str(result.findings)


@pytest.mark.parametrize("name", ["visdrone", "dota", "voc", "yolo"])
@pytest.mark.parametrize(
    ("damage", "kinds", "images"),
    [
        ("label without image", {("warning", "label files without an image"): 1}, 2),
        ("image without label", {("warning", "images without a label file, left out"): 1}, 1),
        ("label not text", {("error", "label files that cannot be read, image left out"): 1}, 1),
        ("image not an image", {("error", "images that cannot be read, left out"): 1}, 1),
        ("image empty", {("error", "images that cannot be read, left out"): 1}, 1),
    ],
)
def test_a_broken_file_is_counted_and_the_rest_converts(tmp_path, name, damage, kinds, images):
    good = {s: voc_xml(GOOD[name], filename=f"{s}.jpg") if name == "voc" else GOOD[name] for s in "ab"}
    native(tmp_path, name, good)
    folder, texts, ending, text_ending = LAYOUT[name]
    label, image = tmp_path / texts / f"b{text_ending}", tmp_path / folder / f"b{ending}"
    if damage == "label without image":
        (label.parent / f"c{text_ending}").write_bytes(label.read_bytes().replace(b"b.jpg", b"c.jpg"))
    elif damage == "image without label":
        label.unlink()
        if name == "yolo":
            kinds, images = {("note", "images without a label file, taken as empty"): 1}, 2
    elif damage == "label not text":
        label.write_bytes(b"\xff\xfe\x00\xd8garbage")
    else:
        image.write_bytes(b"no image" if damage == "image not an image" else b"")
    result = convert(name, tmp_path)
    assert found(result.findings) == kinds
    assert len(result.data["images"]) == images
    assert [o[0] for o in objects(result)] == [f"{s}{ending}" for s in ("ab" if damage[:11] == "label witho" else "a")]


@pytest.mark.parametrize(
    ("text", "kind", "images"),
    [
        (
            voc_xml(voc_object(), filename="../../etc/b.jpg"),
            ("error", "file names that leave the image folder, not followed"),
            2,
        ),
        (
            voc_xml(voc_object(), filename="other.jpg"),
            ("note", "label files that state another image name than their own"),
            2,
        ),
        (
            voc_xml(voc_object(), filename="b.jpg", size=(640, 480)),
            ("warning", "label files that state a wrong image size"),
            2,
        ),
        (voc_xml(voc_object(), filename="b.jpg")[:-9], ("error", "label files that cannot be read, image left out"), 1),
        (
            voc_xml(voc_object(), head='<?xml version="1.0" encoding="gb2312"?>')
            .encode()
            .replace(b"ship", b"\xff\xff"),
            ("error", "label files that cannot be read, image left out"),
            1,
        ),
        (
            voc_xml(voc_object(), filename="b.jpg", head='<?xml version="1.0" encoding="nonsense"?>'),
            ("error", "label files that cannot be read, image left out"),
            1,
        ),
    ],
    ids=["traversal", "other name", "wrong size", "cut short", "not gb2312", "unknown encoding"],
)
def test_broken_xml(tmp_path, text, kind, images):
    result = convert("voc", native(tmp_path, "voc", {"a": voc_xml(voc_object()), "b": text}))
    assert found(result.findings) == {kind: 1}
    assert len(result.data["images"]) == len(result.data["annotations"]) == images


def test_voc_takes_an_image_by_the_name_its_xml_states(tmp_path):
    """Only below the image folder; sizes of 0 say nothing."""
    native(tmp_path, "voc", {"a": None})
    (tmp_path / "Annotations" / "1.xml").write_text(voc_xml(voc_object(), filename="a.jpg", size=(0, 0)))
    (tmp_path / "Annotations" / "2.xml").write_text(voc_xml(voc_object(), filename="../secret/a.jpg"))
    result = convert("voc", tmp_path)
    assert [o[0] for o in objects(result)] == ["a.jpg"]
    assert ("error", "file names that leave the image folder, not followed") in found(result.findings)


COCO_DAMAGE = {
    "entry no object": (
        lambda d: d["annotations"].append("x"),
        ("warning", "entries that are no objects, left out"),
        (2, 2),
    ),
    "unknown image": (
        lambda d: d["annotations"].append({**d["annotations"][0], "image_id": 99}),
        ("warning", "annotations of an unknown image, left out"),
        (2, 2),
    ),
    "image id is a list": (
        lambda d: d["annotations"].append({**d["annotations"][0], "image_id": [7]}),
        ("warning", "annotations of an unknown image, left out"),
        (2, 2),
    ),
    "unknown class": (lambda d: d["annotations"][1].update(category_id=77), UNKNOWN, (2, 1)),
    "class id is a list": (lambda d: d["annotations"][1].update(category_id=[5]), UNKNOWN, (2, 1)),
    "no box": (
        lambda d: d["annotations"][1].pop("bbox"),
        ("warning", "boxes that are not four numbers, left out"),
        (2, 1),
    ),
    "three numbers": (
        lambda d: d["annotations"][1].update(bbox=[1, 2, 3]),
        ("warning", "boxes that are not four numbers, left out"),
        (2, 1),
    ),
    "NaN": (lambda d: d["annotations"][1].update(bbox=[1, 2, 3, float("nan")]), NAN, (2, 1)),
    "infinite": (lambda d: d["annotations"][1].update(bbox=[1, 2, 3, float("inf")]), NAN, (2, 1)),
    "negative": (lambda d: d["annotations"][1].update(bbox=[5, 5, -3, 4]), AREA, (2, 1)),
    "outside": (lambda d: d["annotations"][1].update(bbox=[105, 5, 3, 4]), OUTSIDE, (2, 1)),
    "over the border": (lambda d: d["annotations"][1].update(bbox=[95, 5, 9, 4]), BORDER, (2, 2)),
    "wrong area": (
        lambda d: d["annotations"][1].update(area=5000),
        ("warning", "areas that do not fit their box, replaced by width x height"),
        (2, 2),
    ),
    "missing image": (
        lambda d: d["images"][1].update(file_name="c.png"),
        ("error", "missing images, left out"),
        (1, 1),
    ),
    "traversal": (
        lambda d: d["images"][1].update(file_name="../b.png"),
        ("error", "file names that leave the image folder, left out"),
        (1, 1),
    ),
    "no file name": (
        lambda d: d["images"][1].pop("file_name"),
        ("error", "images whose file name is missing, left out"),
        (1, 1),
    ),
    "wrong size": (
        lambda d: d["images"][1].update(width=999),
        ("error", "images of another size than stated"),
        (1, 1),
    ),
    "regions no list": (lambda d: d["images"][1].update(ignored_regions=None), None, (2, 2)),
    "region of three numbers": (
        lambda d: d["images"][1].update(ignored_regions=[[1, 2, 3]]),
        ("warning", "boxes that are not four numbers, left out"),
        (2, 2),
    ),
    "region with NaN": (lambda d: d["images"][1].update(ignored_boxes=[[1, 2, 3, float("nan")]]), NAN, (2, 2)),
    "other key with NaN": (lambda d: d["annotations"][1].update(score=float("nan")), None, (2, 2)),
}


@pytest.mark.parametrize(("change", "kind", "left"), COCO_DAMAGE.values(), ids=COCO_DAMAGE)
def test_broken_coco_entries(tmp_path, change, kind, left):
    result = convert("coco", coco_json(tmp_path, change))
    if kind is not None:
        assert found(result.findings) == {kind: 1}
    assert (len(result.data["images"]), len(result.data["annotations"])) == left
    write_coco(result.data, tmp_path / "out.json")


def test_images_turned_by_exif_have_the_size_that_training_sees(tmp_path):
    """Orientation 6 stores 100×80 px that are shown, checked and trained as 80×100."""
    exif = Image.Exif()
    exif[0x0112] = 6
    native(tmp_path, "voc", {"a": voc_xml(voc_object(corners=(11, 21, 31, 91)), size=(80, 100))})
    picture(tmp_path / "JPEGImages" / "a.jpg", exif=exif)
    result = convert("voc", tmp_path)
    assert not result.findings
    assert (result.data["images"][0]["width"], result.data["images"][0]["height"]) == (80, 100)
    assert not check_dataset(result.data, result.root, progress=False).findings.count("error")


def test_scenes_as_large_as_dota_v2_has_them_convert(tmp_path):
    """DOTA-v2 holds scenes of up to 29,200 × 27,620 px, which are to be tiled after converting."""
    side = 14_000  # Pillow refuses more than 179 Mpx by default
    native(tmp_path, "dota", {"P1": f"{QUAD} ship 0\n"})

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0)
    pixels = zlib.compress(bytes((side // 8 + 1) * side), 1)
    png = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")
    (tmp_path / "images" / "P1.png").write_bytes(png)
    result = convert("dota", tmp_path)
    assert result.data["images"][0]["width"] == side
    assert not check_dataset(result.data, result.root, progress=False).findings.count("error")


# --- what cannot be read at all ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "options", "error", "message"),
    [
        ("visdron", {}, ConfigError, "Unknown format 'visdron'. Did you mean 'visdrone'?"),
        ("kitti", {}, ConfigError, "Valid: aitod, coco, dior, dota, hituav, visdrone, voc, yolo."),
        ("dota", {"aera": "hbb"}, ConfigError, "Format 'dota' has no option 'aera'. Did you mean 'area'?"),
        (
            "visdrone",
            {"minus_one": True},
            ConfigError,
            "Format 'visdrone' has no option 'minus_one'. Valid: images, labels.",
        ),
        ("yolo", {"classes": ["car", "car"]}, ConfigError, "names a class twice"),
        ("yolo", {"names": ["car"]}, ConfigError, "has no option 'names'"),
        ("dota", {"area": "obb"}, ConfigError, "area='obb' must be one of polygon, hbb."),
        ("dota", {"difficult": "maybe"}, ConfigError, "difficult='maybe' must be one of keep, ignore, drop."),
        ("dota", {"cut": "maybe"}, ConfigError, "cut='maybe' must be one of keep, ignore, drop."),
        ("visdrone", {}, DatasetError, "No folder of images (looked in "),
        ("voc", {}, DatasetError, "Name it with --images."),
        ("dior", {}, DatasetError, "JPEGImages-trainval"),
        ("coco", {}, DatasetError, "is a folder, not a json file"),
    ],
)
def test_unknown_names_and_missing_folders(tmp_path, name, options, error, message):
    with pytest.raises(error) as raised:
        convert(name, tmp_path, **options)
    assert message in str(raised.value)


def test_a_missing_source_and_empty_folders(tmp_path):
    with pytest.raises(DatasetError, match="no such file or folder"):
        convert("yolo", tmp_path / "nowhere")
    for folder in ("images", "annotations"):
        (tmp_path / folder).mkdir()
    with pytest.raises(DatasetError, match="no images here"):
        convert("visdrone", tmp_path)
    picture(tmp_path / "images" / "a.jpg")
    with pytest.raises(DatasetError, match="no image could be converted: 1 images without a label file"):
        convert("visdrone", tmp_path)
    (tmp_path / "annotations").rmdir()
    with pytest.raises(DatasetError, match=r"No folder of labels \(looked in .*annotations, .*labels\)"):
        convert("visdrone", tmp_path)
    with pytest.raises(DatasetError, match=r"No folder of images \(looked in .*elsewhere\)"):
        convert("visdrone", tmp_path, images=tmp_path / "elsewhere")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d: d.pop("categories"), "'categories' is missing"),
        (lambda d: d["images"][1].update(id=7), "two images share an id. `d2tiny check` says which"),
        (lambda d: d["categories"][1].update(id=5), "two categories share an id"),
        (lambda d: d["categories"][1].pop("name"), "a category without id or name"),
        (lambda d: d["categories"][1].update(name=None), "a category without id or name"),
        (lambda d: d.update(images=[], annotations=[]), r"no image could be converted: .*\w"),
    ],
)
def test_unusable_coco(tmp_path, change, message):
    path = coco_json(tmp_path, change)
    with pytest.raises(DatasetError, match=message) as raised:
        convert("coco", path)
    assert str(path.parent) in str(raised.value)


# --- the result --------------------------------------------------------------------------------------------------


def example(root, name):
    """A source with something in every corner, for each format."""
    if name in ("coco", "aitod"):
        return coco_json(root, lambda d: d["categories"][1].update(name="person"))
    if name == "hituav":
        return write_hituav(root) / "annotations" / "train.json"
    if name == "visdrone":
        return native(
            root, name, {"b": "0,0,9,9,0,0,0,0\n5,5,4,4,0,11,0,0\n" + GOOD[name] * 2, "a": "1,1,2,2,0,1,0,0\n"}
        )
    text = {"dior": voc_xml(GOOD["voc"], voc_object("harbor", (1, 2, 3, 4), 1))}
    text["voc"] = text["dior"]
    return native(root, name, {s: text.get(name, GOOD.get(name)) for s in "ba"})


@pytest.mark.parametrize("name", FORMATS)
def test_the_json_is_the_same_every_time_and_trains(tmp_path, name):
    """Written twice with the same bytes; loads through register_coco_like with every ignored box as a crowd."""
    source = example(tmp_path / "source", name)
    for file in ("x/one.json", "two.json"):
        result = convert(name, source)
        write_coco(result.data, tmp_path / file)
    assert (tmp_path / "x/one.json").read_bytes() == (tmp_path / "two.json").read_bytes()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["source", "two.json", "x"]  # no temporary file
    registered = f"converted_{name}_{tmp_path.name}"
    register_coco_like(registered, tmp_path / "two.json", result.root)
    source_of = find_source(registered)
    assert isinstance(source_of, DatasetSource)
    records = load_coco_like(source_of)
    regions = [len(i.get("ignored_regions", [])) + len(i.get("ignored_boxes", [])) for i in result.data["images"]]
    crowds = sum(a["iscrowd"] for a in result.data["annotations"]) + sum(regions)
    loaded = [a for r in records for a in r["annotations"]]
    assert len(loaded) == len(result.data["annotations"]) + sum(regions)
    assert sum(a["iscrowd"] for a in loaded) == crowds
    assert crowds == {"visdrone": 3, "voc": 2, "dior": 2, "hituav": 4}.get(name, 0)
    assert not check_dataset(result.data, result.root, progress=False).findings.count("error")


def test_visdrone_regions_come_out_as_crowd_boxes(tmp_path):
    result = convert("visdrone", example(tmp_path, "visdrone"))
    write_coco(result.data, tmp_path / "v.json")
    register_coco_like(f"regions_{tmp_path.name}", tmp_path / "v.json", result.root)
    first, second = load_coco_like(find_source(f"regions_{tmp_path.name}"))
    assert [(a["bbox"], a["iscrowd"]) for a in second["annotations"]] == [
        ([0, 0, 9, 9], 1),
        ([5, 5, 4, 4], 1),
        ([10, 20, 8, 6], 0),
        ([10, 20, 8, 6], 0),
    ]
    assert [(a["bbox"], a["category_id"], a["iscrowd"]) for a in first["annotations"]] == [([1, 1, 2, 2], 0, 1)]
    assert second["file_name"] == str(tmp_path / "images" / "b.jpg")


def test_a_json_is_written_whole_or_not_at_all(tmp_path):
    (tmp_path / "old.json").write_text("old")
    with pytest.raises(ValueError, match="JSON compliant"):
        write_coco({"images": [float("nan")]}, tmp_path / "old.json")
    assert [(p.name, p.read_text()) for p in tmp_path.iterdir()] == [("old.json", "old")]
