"""Genuine files: they convert, and a corrupted copy of each gets the right complaint without losing the rest."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import dataclass, field

import pytest

from d2tiny.cli_data import main
from d2tiny.data.coco.check import check_dataset, check_json
from d2tiny.data.tools.converters import convert_dataset

pytestmark = pytest.mark.real_data

BORDER = ("note", "boxes over the image border, kept as they are")
CLIPPED = ("warning", "boxes over the image border, clipped")
UNUSED = ("note", "classes without an object")
UNLISTED = ("note", "image files that the json does not list")
ODD = ("note", "keys that COCO names otherwise")
AREAS = ("warning", "areas that do not fit their box, replaced by width x height")
NO_LABEL = ("warning", "images without a label file, left out")


@dataclass
class Native:
    """One of the native datasets: where it lies, what it holds, and one label file that is corrupted below."""

    format: str
    source: str
    label: str
    images: int
    objects: int
    classes: int
    in_label: int  # objects of that file, where there are others
    found: dict = field(default_factory=dict)
    checked: dict = field(default_factory=dict)
    image_dir: str | None = None
    image: str = ""  # an image of that file


DATASETS = {
    "visdrone": Native(
        "visdrone", "visdrone", "visdrone/annotations/9999938_00000_d_0000368.txt", 2, 221, 10, 23,
        {NO_LABEL: 1}, {UNUSED: 1, UNLISTED: 1}, image="visdrone/images/9999938_00000_d_0000368.jpg",
    ),
    "dota": Native(
        "dota", "dota", "dota/labelTxt/P1888.txt", 4, 752, 18, 64,
        {BORDER: 1}, {CLIPPED: 1, UNUSED: 10}, image="dota/images/P1888.png",
    ),
    "voc": Native(
        "voc", "voc", "voc/Annotations/1_60_30_0_00041.xml", 6, 167, 5, 26,
        image="voc/JPEGImages/1_60_30_0_00041.jpg",
    ),
    "yolo": Native(
        "yolo", "yolo", "yolo/MunichStreet02-MOS84.txt", 2, 71, 5, 37,
        {}, {UNUSED: 3}, image="yolo/MunichStreet02-MOS84.png",
    ),
    "aitod_coco": Native(
        "aitod", "aitod_coco/valid/_annotations.coco.json", "aitod_coco/valid/_annotations.coco.json", 19, 50, 8, 0,
        {}, {UNUSED: 7},
        image="aitod_coco/valid/0a4c999c8_png_jpg.rf.0d86cba96f43a926b8c236c12f5be05b.jpg",
    ),
    "hituav_json": Native(
        "coco", "hituav_json/train.json", "hituav_json/train.json", 6, 167, 5, 0,
        {ODD: 7}, {}, "voc/JPEGImages", "voc/JPEGImages/1_60_30_0_00041.jpg",
    ),
    "coco_sahi": Native(
        "coco", "coco_sahi/terrain2_coco.json", "coco_sahi/terrain2_coco.json", 1, 5, 1, 0, {AREAS: 5}, {}
    ),
}  # fmt: skip
TEXTS, JSONS = list(DATASETS)[:4], list(DATASETS)[4:]


def found(findings):
    return {(entry["severity"], entry["what"]): entry["count"] for entry in findings.to_dict()}


def convert(root, native):
    options = {"images": root / native.image_dir} if native.image_dir else {}
    return convert_dataset(native.format, root / native.source, progress=False, **options)


def command(root, native):
    options = ["--images", str(root / native.image_dir)] if native.image_dir else []
    return ["convert", native.format, str(root / native.source), *options, "--output", str(root / "out" / "out.json")]


@pytest.fixture
def copy(shared_data, tmp_path):
    """A dataset's copy in which labels can be corrupted; its images are links."""

    def copy_or_link(source, target):
        if source.endswith((".txt", ".xml", ".json")):
            shutil.copyfile(source, target)
        else:
            (tmp_path / target).symlink_to(source)

    def make(name):
        for folder in {DATASETS[name].source.split("/")[0], (DATASETS[name].image_dir or name).split("/")[0]}:
            shutil.copytree(shared_data / "native" / folder, tmp_path / folder, copy_function=copy_or_link)
        return tmp_path

    return make


def per_image(data):
    """File name → class names and boxes, without the ids, which move when something is left out."""
    classes = {c["id"]: c["name"] for c in data["categories"]}
    return {
        i["file_name"]: [
            (classes[a["category_id"]], a["bbox"], a["area"]) for a in data["annotations"] if a["image_id"] == i["id"]
        ]
        for i in data["images"]
    }


def written_whole(root):
    """The json of the command; it is complete and alone in its folder."""
    assert [p.name for p in (root / "out").iterdir()] == ["out.json"]
    return json.loads((root / "out" / "out.json").read_text())


# --- as they are -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", DATASETS)
def test_genuine_files_convert_and_check(shared_data, name):
    native = DATASETS[name]
    result = convert(shared_data / "native", native)
    data = result.data
    assert (len(data["images"]), len(data["annotations"]), len(data["categories"])) == (
        native.images,
        native.objects,
        native.classes,
    )
    assert found(result.findings) == native.found
    checked = check_dataset(data, result.root, decode=name != "dota", progress=False)
    assert found(checked.findings) == native.checked
    assert len(checked.clean["annotations"]) == native.objects


def test_one_image_in_two_formats(shared_data):
    """VisDrone's text and the VOC xml of it hold the same boxes, and so do HIT-UAV's json and xml."""
    root = shared_data / "native"
    stem = "0000068_00001_d_0000001.jpg"
    text = per_image(convert(root, DATASETS["visdrone"]).data)[stem]
    xml = convert_dataset("voc", root / "visdrone", labels=root / "visdrone/annotations_xml", progress=False)
    boxes = per_image(xml.data)[stem]
    assert sorted(map(repr, text)) == sorted(map(repr, boxes))
    thermal = [per_image(convert(root, DATASETS[name]).data) for name in ("voc", "hituav_json")]
    assert {f: [b for _, b, _ in o] for f, o in thermal[0].items()} == {
        f: [b for _, b, _ in o] for f, o in thermal[1].items()
    }


@pytest.mark.parametrize(
    ("file", "images", "annotations"),
    [
        ("coco_sahi/visdrone2019-det-train-first50image.json", 50, 3326),
        ("aitod_coco/valid_full_449_images_annotations_only.json", 449, 8387),
    ],
)
def test_jsons_without_their_images(shared_data, file, images, annotations):
    """`check` without --images looks at the json alone; converting says that every image is missing."""
    checked = check_json(shared_data / "native" / file, None, progress=False)
    assert not checked.findings.count("error")
    assert len(checked.clean["images"]) == images
    assert len(checked.clean["annotations"]) == annotations
    with pytest.raises(ValueError, match=f"{images} missing images, left out"):
        convert_dataset("coco", shared_data / "native" / file, progress=False)


def test_labels_of_other_images_are_counted(shared_data):
    root = shared_data / "native" / "dota"
    with pytest.raises(ValueError, match=r"4 images without a label file, left out.*2 label files without an image"):
        convert_dataset("dota", root, labels=root / "labelTxt_without_image", progress=False)


# --- corrupted copies of the text formats ------------------------------------------------------------------------


def cut_short(text):
    """The first half, its last line after five characters."""
    return text[: text.rfind("\n", 0, len(text) // 2) + 6]


def field_of(format, index):
    """A change of the first object's field (by column; xml: by tag)."""
    separator = "," if format == "visdrone" else " "

    def change(text, value):
        if format == "voc":
            return re.sub(f"<{index}>[^<]*<", f"<{index}>{value}<", text, count=1)
        lines = text.split("\n")
        first = 2 if format == "dota" else 0
        words = lines[first].split(separator)
        words[index] = value
        return "\n".join([*lines[:first], separator.join(words), *lines[first + 1 :]])

    return change


FIRST = {  # column of x, of the width (or what makes it negative), of the class
    "visdrone": ((0, "nan"), (2, "-5"), (5, "42")),
    "dota": ((0, "nan"), None, (8, "zeppelin")),
    "voc": (("xmin", "nan"), ("xmax", "1"), None),
    "yolo": ((1, "nan"), (3, "-0.1"), (0, "42")),
}
HEADERS = {
    "visdrone": "left,top,width,height,score,category,truncation,occlusion",
    "dota": "x1 y1 x2 y2 x3 y3 x4 y4 category difficult",
    "voc": '<?xml version="1.0" encoding="nonsense"?><annotation>',
    "yolo": "class x_center y_center width height",
}
NOT_A_LINE = {
    "visdrone": "lines that are not eight numbers, left out",
    "dota": "lines that are not eight numbers and a class, left out",
    "yolo": "lines that are not a class and a box or polygon, left out",
}
UNREADABLE = {("error", "label files that cannot be read, image left out"): 1}


def text_damage(name, kind):
    """(change, what is found besides the usual, objects that are lost) of a corruption; None: cannot happen there."""
    native, is_xml = DATASETS[name], name == "voc"
    if kind == "cut short":
        what = "lines with fewer than nine words, left out" if name == "dota" else NOT_A_LINE.get(name)
        return cut_short, UNREADABLE if is_xml else {("warning", what): 1}, native.in_label if is_xml else None
    if kind == "wrong first line":
        lost = native.in_label if is_xml else int(name != "dota")  # DOTA's first line is no object
        what = UNREADABLE if is_xml else {("warning", NOT_A_LINE[name]): 1}
        return lambda t: HEADERS[name] + t[t.index("\n") :], what, lost
    place = FIRST[name][("NaN", "negative size", "unknown class").index(kind)]
    if place is None:
        return None
    what = {
        "NaN": ("warning", "boxes with NaN or infinity, left out"),
        "negative size": ("warning", "boxes without area, left out"),
        "unknown class": ("error", "objects of unknown classes, left out"),
    }[kind]
    return lambda t: field_of(name, place[0])(t, place[1]), {what: 1}, 1


KINDS = ("cut short", "wrong first line", "NaN", "negative size", "unknown class")


@pytest.mark.parametrize(("name", "kind"), [(n, k) for n in TEXTS for k in KINDS if text_damage(n, k)])
def test_a_corrupted_text_gets_its_complaint_and_the_rest_converts(copy, name, kind, capsys):
    native, root = DATASETS[name], copy(name)
    before = per_image(convert(root, native).data)
    change, extra, lost = text_damage(name, kind)
    path = root / native.label
    path.write_bytes(change(path.read_bytes().decode()).encode())
    result = convert(root, native)
    assert found(result.findings) == {**native.found, **extra}
    assert path.stem in json.dumps([e for e in result.findings.to_dict() if (e["severity"], e["what"]) in extra])
    after = per_image(result.data)
    assert {f: o for f, o in after.items() if path.stem not in f} == {
        f: o for f, o in before.items() if path.stem not in f
    }
    if lost is None:  # cut in the middle
        assert 0 < native.objects - len(result.data["annotations"]) < native.in_label
    else:
        assert len(result.data["annotations"]) == native.objects - lost
    assert main(command(root, native)) == 0
    assert written_whole(root) == result.data
    assert next(what for _, what in extra)[:30] in capsys.readouterr().out


def test_voc_classes_that_were_not_given_are_named(copy):
    """VOC takes the classes that occur, so an unknown one needs a list."""
    root = copy("voc")
    result = convert_dataset("voc", root / "voc", classes=["Person", "Car"], progress=False)
    ((kind, count),) = found(result.findings).items()
    assert kind == ("error", "objects of unknown classes, left out")
    assert count == 167 - len(result.data["annotations"])


# --- corrupted copies of the jsons -------------------------------------------------------------------------------


def first(**changes):
    return lambda data: data[next(k for k in data if k.startswith("annotation"))][0].update(changes)


def clash(data):
    entries = data[next(k for k in data if k.startswith("annotation"))]
    entries[1]["id"] = entries[0]["id"]


JSON_DAMAGE = {  # what converting finds, what `check` finds, objects that are lost
    "NaN": (
        first(bbox=[1, 2, float("nan"), 4]),
        ("warning", "boxes with NaN or infinity, left out"),
        ("error", "boxes with NaN or infinity, left out"),
        1,
    ),
    "negative size": (
        first(bbox=[5, 5, -3, 4]),
        ("warning", "boxes without area, left out"),
        ("error", "boxes without area, left out"),
        1,
    ),
    "unknown class": (
        first(category_id=99),
        ("error", "objects of unknown classes, left out"),
        ("error", "annotations of unknown classes, left out"),
        1,
    ),
    "unknown image": (
        first(image_id=987654),
        ("warning", "annotations of an unknown image, left out"),
        ("warning", "annotations of an unknown image, left out"),
        1,
    ),
    "annotation ids": (clash, None, ("warning", "annotations with the id of another"), 0),
}


@pytest.mark.parametrize("name", JSONS)
@pytest.mark.parametrize("kind", JSON_DAMAGE)
def test_a_corrupted_json_gets_its_complaint_and_the_rest_converts(copy, name, kind):
    native, root = DATASETS[name], copy(name)
    before = per_image(convert(root, native).data)
    change, converting, checking, lost = JSON_DAMAGE[kind]
    path = root / native.label
    data = json.loads(path.read_text())
    change(data)
    path.write_text(json.dumps(data))
    corrupted = path.read_bytes()
    result = convert(root, native)
    usual = {k: v - (k == AREAS and lost) for k, v in native.found.items()}
    assert found(result.findings) == {**usual, **({converting: 1} if converting else {})}
    assert [a["id"] for a in result.data["annotations"]] == list(range(1, native.objects - lost + 1))
    after = per_image(result.data)
    assert sum(after[f] != before[f] for f in before) == bool(lost)
    assert main(command(root, native)) == 0
    assert written_whole(root) == result.data
    checked = check_json(path, root / native.image_dir if native.image_dir else path.parent, progress=False)
    assert found(checked.findings)[checking] == 1 + (kind == "annotation ids")
    assert len(checked.clean["annotations"]) == native.objects - lost
    assert path.read_bytes() == corrupted


@pytest.mark.parametrize("name", JSONS)
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t[: len(t) // 2], "is not a valid json file"),
        (lambda t: t.replace('"images"', '"pictures"', 1), "'images' is missing"),
        (lambda t: t.replace('"categories"', '"classes"', 1), "'categories' is missing"),
        (lambda t: f"[{t}]", "expected a COCO object"),
    ],
    ids=["cut short", "wrong head", "no categories", "a list"],
)
def test_an_unusable_json_leaves_nothing_behind(copy, name, change, message, capsys):
    native, root = DATASETS[name], copy(name)
    path = root / native.label
    path.write_text(change(path.read_text()))
    assert main(command(root, native)) == 2
    error = capsys.readouterr().err
    assert message in error
    assert str(path) in error
    assert not (root / "out").exists()


@pytest.mark.parametrize("name", ["aitod_coco", "hituav_json"])
def test_image_ids_that_clash_are_found_and_the_clean_copy_converts(copy, name, capsys):
    """Nobody can say whose annotations these are, so converting stops and names the command that says more."""
    native, root = DATASETS[name], copy(name)
    path = root / native.label
    data = json.loads(path.read_text())
    data["images"][1]["id"] = data["images"][0]["id"]
    path.write_text(json.dumps(data))
    assert main(command(root, native)) == 2
    assert "two images share an id. `d2tiny check` says which" in capsys.readouterr().err
    assert not (root / "out").exists()
    images = root / (native.image_dir or path.relative_to(root).parent)
    clean = root / "clean.json"
    assert main(["check", str(path), "--images", str(images), "--fix", str(clean)]) == 1
    assert f"id {data['images'][0]['id']}" in capsys.readouterr().out
    result = convert_dataset(native.format, clean, images=images, progress=False)
    assert len(result.data["images"]) == native.images - 1
    assert not result.findings.count("error")


# --- corrupted images --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [n for n in DATASETS if DATASETS[n].image])
@pytest.mark.parametrize(
    ("share", "kind"), [(0.5, "images cut short, left out"), (0, "images that cannot be read, left out")]
)
def test_a_broken_image_is_found_and_the_rest_stays(copy, name, share, kind):
    native, root = DATASETS[name], copy(name)
    path = root / native.image
    data = path.read_bytes()
    path.unlink()
    path.write_bytes(data[: int(len(data) * share)])
    result = convert(root, native)
    checked = check_dataset(result.data, result.root, result.findings, progress=False)
    assert found(checked.findings)["error", kind] == 1
    assert path.name in checked.findings.to_dict()[0]["examples"][0]
    assert len(checked.clean["images"]) == native.images - 1
    assert path.name not in {i["file_name"] for i in checked.clean["images"]}


def test_the_only_image_broken(copy, capsys):
    native, root = DATASETS["coco_sahi"], copy("coco_sahi")
    path = root / "coco_sahi/terrain2.png"
    path.unlink()
    path.write_bytes(b"")
    assert main(command(root, native)) == 2
    assert "no image could be converted: 1 images that cannot be read" in capsys.readouterr().err
    assert not (root / "out").exists()
