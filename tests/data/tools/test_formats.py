"""Files in the converters' formats as tools write them: names, numbers, columns, encodings, images of one name."""

from __future__ import annotations

import json

import pytest

from d2tiny.cli import main
from d2tiny.data.coco.findings import Findings
from d2tiny.data.tools.converters.yolo_names import find_keypoint_shape, find_yolo_classes
from d2tiny.utils.errors import ConfigError, DatasetError
from tests.helpers.native import GOOD, LAYOUT, convert, found, native, objects, picture, voc_object, voc_xml

SHARED = ("warning", "images that share one label file")
OTHER_NAME = ("note", "label files that state another image name than their own")


def test_examples_are_short_and_can_be_printed():
    findings = Findings()
    findings.add("names", "start" + "9" * 5000 + "end")
    findings.add("names", "\ud800 车")
    first, second = findings.kinds["names"].examples
    assert len(first) < 500
    assert (first[:6], first[-4:]) == ("start9", "9end")
    assert second.encode() == b"\\ud800 \xe8\xbd\xa6"


# --- images of one name ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["visdrone", "dota", "voc", "dior", "yolo"])
@pytest.mark.parametrize("ending", [".bmp", ".JPG", ".webp"])
def test_images_that_share_their_name_are_both_kept(tmp_path, name, ending):
    label = voc_xml(voc_object("ship"), filename="") if name in ("voc", "dior") else GOOD[name]
    native(tmp_path, name, {"a": label})
    folder, _, usual, _ = LAYOUT[name]
    picture(tmp_path / folder / f"a{ending}")
    result = convert(name, tmp_path)
    assert found(result.findings) == {SHARED: 2}
    prefix = f"{folder}/" if name == "dior" else ""
    assert {o[0] for o in objects(result)} == {f"{prefix}a{usual}", f"{prefix}a{ending}"}
    assert len({o[1:] for o in objects(result)}) == 1


def test_dior_images_of_one_name_in_two_folders_are_both_kept(tmp_path):
    native(tmp_path, "dior", {"00001": voc_xml(voc_object("ship"), filename="00001.jpg")})
    picture(tmp_path / "JPEGImages-test" / "00001.jpg")
    result = convert("dior", tmp_path)
    assert found(result.findings) == {SHARED: 2}
    assert len(result.data["images"]) == 2


def test_an_xml_says_which_of_two_images_is_its_own(tmp_path):
    native(tmp_path, "voc", {"a": voc_xml(voc_object(), filename="a.png")})
    picture(tmp_path / "JPEGImages" / "a.png")
    result = convert("voc", tmp_path)
    assert [o[0] for o in objects(result)] == ["a.png"]
    assert found(result.findings) == {SHARED: 2}


def test_folders_below_the_images_are_named(tmp_path):
    picture(tmp_path / "images" / "train" / "a.png")
    picture(tmp_path / "images" / "val" / "b.png")
    (tmp_path / "labels" / "train").mkdir(parents=True)
    (tmp_path / "labels" / "train" / "a.txt").write_text(GOOD["yolo"])
    (tmp_path / "classes.txt").write_text("car\n")
    with pytest.raises(DatasetError, match=r"no images here .* Its folders train, val hold images: name one of them"):
        convert("yolo", tmp_path)
    assert len(objects(convert("yolo", tmp_path, images=tmp_path / "images" / "train"))) == 1


def test_images_without_any_label_are_sent_to_tiling(tmp_path):
    picture(tmp_path / "images" / "P0002.png")
    with pytest.raises(DatasetError, match=r"Images without labels are cut by `d2tiny tile FOLDER`"):
        convert("dota", tmp_path)


# --- VisDrone ----------------------------------------------------------------------------------------------------


def test_lines_of_videos_are_no_boxes(tmp_path):
    """VisDrone-VID: frame, track, box, ...; UAVDT: nine columns. Read as VisDrone-DET, heights would become classes."""
    native(tmp_path, "visdrone", {"a": "1,0,10,10,8,8,1,4,0,0\n1,1,30,30,9,8,1,4,0,0\n", "b": "1,1,10,10,8,8,1,1,1\n"})
    result = convert("visdrone", tmp_path)
    what = "lines of nine or ten columns (VisDrone-VID, VisDrone-MOT, UAVDT), left out"
    assert found(result.findings) == {("error", what): 3}
    assert not result.data["annotations"]


# --- VOC ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "ignored"),
    [
        ("0", 0), ("1", 1), (" 1\n", 1), ("2", 1), ("0.0", 0), ("1.0", 1), ("False", 0), ("TRUE", 1), ("no", 0),
        ("yes", 1), ("Unspecified", 0), ("", 0),
    ],
)  # fmt: skip
def test_difficult_means_what_it_says(tmp_path, text, ignored):
    tag = voc_object().replace("</name>", f"</name><difficult>{text}</difficult>")
    result = convert("voc", native(tmp_path, "voc", {"a": voc_xml(tag)}))
    (annotation,) = result.data["annotations"]
    assert (annotation["iscrowd"], annotation["difficult"]) == (ignored, ignored)
    assert not result.findings


@pytest.mark.parametrize("text", ["maybe", "-1", "0.5", "nan", "1_0"])
def test_difficult_without_a_meaning_is_counted(tmp_path, text):
    tag = voc_object().replace("</name>", f"</name><difficult>{text}</difficult>")
    result = convert("voc", native(tmp_path, "voc", {"a": voc_xml(tag)}))
    assert found(result.findings) == {("warning", "marks that are neither true nor false, taken as ignored"): 1}
    assert f"a.xml, object 1 (ship): difficult {text}" in str(result.findings)


@pytest.mark.parametrize("size", [("100.0", "80.0"), (" 100 ", "80"), ("0", "0.0")])
def test_sizes_may_be_written_as_fractions(tmp_path, size):
    assert not convert("voc", native(tmp_path, "voc", {"a": voc_xml(voc_object(), size=size)})).findings


def test_a_namespace_and_capitals_do_not_hide_objects(tmp_path):
    text = voc_xml(voc_object()).replace("<annotation>", '<annotation xmlns="http://x">')
    prefixed = '<v:annotation xmlns:v="http://x"><v:object><v:name>ship</v:name><v:bndbox>' + "".join(
        f"<v:{key}>{value}</v:{key}>"
        for key, value in zip(("xmin", "ymin", "xmax", "ymax"), (11, 21, 31, 41), strict=True)
    )
    labels = {"a": text, "b": prefixed + "</v:bndbox></v:object></v:annotation>"}
    labels["c"] = voc_xml(voc_object(), filename="c.jpg").replace("object>", "Object>").replace("name>", "Name>")
    result = convert("voc", native(tmp_path, "voc", labels))
    assert not result.findings
    assert [o[0] for o in objects(result)] == ["a.jpg", "b.jpg", "c.jpg"]
    assert len({o[1:] for o in objects(result)}) == 1


def test_an_xml_of_something_else_is_no_image_without_objects(tmp_path):
    other = "<annotations><image name='b.jpg'><box label='ship' xtl='1' ytl='2' xbr='3' ybr='4'/></image></annotations>"
    result = convert("voc", native(tmp_path, "voc", {"a": voc_xml(voc_object()), "b": other}))
    assert found(result.findings) == {("error", "label files that cannot be read, image left out"): 1}
    assert "no annotation of Pascal VOC, but <annotations>" in str(result.findings)


@pytest.mark.parametrize(
    ("stated", "written", "name"),
    [
        ("gb2312", "gb2312", "车"),
        ("GB2312", "gb18030", "镕"),  # not in gb2312, which tools state nevertheless
        ("gbk", "gbk", "船"),
        ("gb18030", "gb18030", "船"),
        ("big5", "big5", "車"),
        ("shift_jis", "shift_jis", "船"),
        ("euc-kr", "euc-kr", "배"),
        ("iso-8859-1", "iso-8859-1", "Müll"),
        ("utf-16", "utf-16", "船"),
        ("utf-8", "utf-8-sig", "船"),
    ],
)
def test_xml_in_the_encoding_that_it_states(tmp_path, stated, written, name):
    text = voc_xml(voc_object(name), head=f'<?xml version="1.0" encoding="{stated}"?>')
    result = convert("voc", native(tmp_path, "voc", {"a": text.encode(written)}))
    assert [o[1] for o in objects(result)] == [name]
    assert not result.findings


@pytest.mark.parametrize(
    ("line", "image"),
    [
        ("my img 1", "my img 1"),
        ("my img 1.jpg", "my img 1"),
        ("my img 1  -1", "my img 1"),
        ("JPEGImages\\my img 1.jpg", "my img 1"),
        ("C:\\data\\b.jpg", "b"),
        ("JPEGImages\\b.jpg", "b"),
        ("b  1", "b"),
        ("b 0", "b"),
        ("JPEGImages/b.jpg Annotations/b.xml", "b"),
        ("b some other words", "b"),
    ],
)
def test_lines_of_a_list(tmp_path, line, image):
    labels = {stem: voc_xml(voc_object(), filename=f"{stem}.jpg") for stem in ("my img 1", "b")}
    native(tmp_path, "voc", labels)
    (tmp_path / "ImageSets" / "Main").mkdir(parents=True)
    (tmp_path / "ImageSets" / "Main" / "x.txt").write_text(f"{line}\n")
    result = convert("voc", tmp_path, split="x")
    assert [i["file_name"] for i in result.data["images"]] == [f"{image}.jpg"]
    assert not result.findings


@pytest.mark.parametrize(("line", "missing"), [("no such image", "no such image.xml"), ("none -1", "none.xml")])
def test_a_listed_image_that_is_missing_is_named_as_a_whole(tmp_path, line, missing):
    native(tmp_path, "voc", {"b": voc_xml(voc_object(), filename="b.jpg")})
    (tmp_path / "ImageSets").mkdir()
    (tmp_path / "ImageSets" / "x.txt").write_text(f"b\n{line}\n")
    result = convert("voc", tmp_path, split="x")
    assert found(result.findings) == {("error", "images without a label file, left out"): 1}
    assert f"/{missing}" in str(result.findings)


def test_a_list_that_is_no_text_is_refused(tmp_path):
    native(tmp_path, "voc", {"b": voc_xml(voc_object(), filename="b.jpg")})
    (tmp_path / "ImageSets").mkdir()
    (tmp_path / "ImageSets" / "x.txt").write_bytes("车\n".encode("gb2312"))
    with pytest.raises(DatasetError, match=r"x.txt cannot be read .*Store it as UTF-8"):
        convert("voc", tmp_path, split="x")


# --- YOLO: lines -------------------------------------------------------------------------------------------------

BOX, HULL = (45, 36, 10, 8), (10, 8, 80, 72)
NOTE = ("note", "lines read as a box with keypoints or a track, see --lines")
UNSURE = ("warning", "lines read as a polygon that may be a box with keypoints, see --lines")
POSE = "0 0.5 0.5 0.1 0.1 0.5 0.5 1 0.52 0.52 1\n"
TRACK = "0 0.5 0.5 0.1 0.1 0.9 1\n"
QUARTER = "0 0.4 0.4 0.5 0.4 0.5 0.5 0.4 0.5\n"  # four corners: 10×8 px at (40, 32)


def yolo(root, text, **options):
    result = convert("yolo", native(root, "yolo", {"a": text}), **options)
    return [pytest.approx(o[2]) for o in objects(result)], found(result.findings)


@pytest.mark.parametrize(
    ("text", "box", "kinds"),
    [
        (POSE, BOX, {NOTE: 1}),
        (TRACK, BOX, {NOTE: 1}),
        ("0 0.5 0.5 0.1 0.1 0.9 17\n", BOX, {NOTE: 1}),
        ("0 0.5 0.5 0.1 0.1 17\n", BOX, {}),  # a fifth number may be anything
        ("0 0.5 0.5 0.1 0.1 0.5 0.5 2\n", BOX, {NOTE: 1}),
        ("0 0.5 0.5 0.1 0.1 0.48 0.52\n", BOX, {NOTE: 1}),
        ("0 0.5 0.5 0.1 0.1 0.48 0.52 0.51 0.5\n", BOX, {NOTE: 1}),
        ("0 0.5 0.5 0.1 0.1 0.48 0.52 0.7 0 0 0\n", BOX, {NOTE: 1}),
        ("0 0.5 0.5 0.1 0.1 0.48 0.52 2 0 0 0 0.95\n", BOX, {NOTE: 1}),
        ("0 0.5 0.5 0.8 0.9 0.3 0.3 2 0.7 0.9 2\n", (10, 4, 80, 72), {NOTE: 1}),
        ("0 0.5 0.5 0.1 0.1 0.9 0\n", (10, 0, 80, 40), {UNSURE: 1}),  # track 0, or a corner at the border
        ("0 0.5 0.5 0.1 0.1 0.9 0.9 1 0.1 0.1 0\n", (10, 0, 90, 72), {UNSURE: 1}),  # keypoints outside the box
        (QUARTER, (40, 32, 10, 8), {}),
        ("0 0.5 0.5 0.51 0.5 0.51 0.51 0.5 0.51\n", (50, 40, 1, 0.8), {}),
        ("0 0.1 0.1 0.9 0.1 0.9 0.9 0.1 0.9\n", (10, 8, 80, 64), {}),
        ("0 0.5 0.5 0.52 0.5 0.5 0.52\n", (50, 40, 2, 1.6), {}),
    ],
)
def test_what_follows_a_box(tmp_path, text, box, kinds):
    assert yolo(tmp_path, text) == ([box], kinds)


@pytest.mark.parametrize("text", ["0 0.5 0.5 0.1 0.1 0.9 0.9 2 0.1 0.1 2\n", "0 0.1 0.1 0.9 0.1 1.6 0.9\n"])
def test_polygons_lie_in_the_image(tmp_path, text):
    boxes, kinds = yolo(tmp_path, text)
    assert boxes == []
    assert kinds["error", "boxes that are not shares of the image, left out"] == 1


def test_large_objects_with_keypoints_may_be_polygons(tmp_path):
    boxes, kinds = yolo(tmp_path, "0 0.5 0.5 0.6 0.6 0.3 0.3 0.7 0.7 0.7 0.3\n")
    assert boxes == [(30, 24, 40, 32)]
    assert kinds == {UNSURE: 1}


def test_the_other_lines_of_a_text_decide_in_doubt(tmp_path):
    """A triangle that looks like a box with a keypoint, among triangles that cannot be that."""
    plain = "0 0.8 0.8 0.82 0.8 0.8 0.82\n"
    boxes, kinds = yolo(tmp_path, plain * 3 + "0 0.5 0.5 0.1 0.1 0.48 0.52\n")
    assert boxes[3] == (10, 8, 40, 33.6)
    assert kinds == {UNSURE: 1}
    boxes, kinds = yolo(tmp_path, POSE * 2 + "0 0.5 0.5 0.1 0.1 0.7 0.5 1 0.52 0.52 1\n")  # a keypoint beside the box
    assert boxes[2] == BOX
    assert kinds == {NOTE: 3}


@pytest.mark.parametrize(
    ("lines", "boxes", "kinds"),
    [("box", [BOX, BOX, (15, 16, 50, 32)], {}), ("polygon", [(10, 8, 90, 72), HULL, (40, 32, 10, 8)], {})],
)
def test_lines_can_be_told(tmp_path, lines, boxes, kinds):
    assert yolo(tmp_path, POSE + TRACK + QUARTER, lines=lines) == (boxes, kinds)


def test_unknown_kinds_of_lines_are_refused(tmp_path):
    with pytest.raises(ConfigError, match="lines='pose' must be one of auto, box, polygon"):
        yolo(tmp_path, POSE, lines="pose")


@pytest.mark.parametrize(("shape", "text"), [("[2, 3]", POSE), ("[1, 2]", "0 0.5 0.5 0.1 0.1 0.9 0.9\n")])
def test_a_yaml_file_says_how_many_keypoints_there_are(tmp_path, shape, text):
    (tmp_path / "data.yaml").write_text(f"kpt_shape: {shape}\nnames: [car, ship]\n")
    assert yolo(tmp_path, text) == ([BOX], {})


def test_the_command_has_the_option(tmp_path):
    native(tmp_path, "yolo", {"a": POSE})
    command = ["convert", "yolo", str(tmp_path), "--output", str(tmp_path / "o.json")]
    assert main([*command, "--lines", "polygon"]) == 0
    assert json.loads((tmp_path / "o.json").read_text())["annotations"][0]["bbox"] == pytest.approx([10, 8, 90, 72])


# --- YOLO: names -------------------------------------------------------------------------------------------------


def names_of(root, text, file="data.yaml"):
    (root / file).write_text(text)
    findings = Findings()
    return find_yolo_classes(root, findings), found(findings)


GAPS = ("warning", "files of class names that skip numbers; objects of these have no class")
NUMBERS = ("error", "class numbers that are no whole numbers from 0, left out")
NO_TEXT = ("error", "class names that are no text, left out")


@pytest.mark.parametrize(
    ("text", "names", "kinds"),
    [
        ("names: {'0': car, '1': ship}", {0: "car", 1: "ship"}, {}),
        ('names:\n  "1": ship\n  "0": car\n', {0: "car", 1: "ship"}, {}),
        ("names: [no, 2024-01-01, 1.50, 0x10]", {0: "no", 1: "2024-01-01", 2: "1.50", 3: "0x10"}, {}),
        ("names: [0, 1, 2]", {0: "0", 1: "1", 2: "2"}, {}),
        ("names: {0: car, 2: bus}", {0: "car", 2: "bus"}, {GAPS: 1}),
        ("names: {0: a, 99999999: b}", {0: "a", 99999999: "b"}, {GAPS: 1}),
        ("names: {999999999999: a}", {999999999999: "a"}, {GAPS: 1}),
        ("names: {0: a, %s: b}" % ("9" * 60), {0: "a"}, {NUMBERS: 1}),
        ("names:\n  0: a\n  ? %s\n  : b\n" % ("9" * 5000), {0: "a"}, {NUMBERS: 1}),
        ("names: {0: a, -1: b}", {0: "a"}, {NUMBERS: 1}),
        ("names: {0: a, 1_0: b, 0.5: c, true: d, [1]: e}", {0: "a"}, {NUMBERS: 4}),
        ("names: [car, null, ship]", {0: "car", 2: "ship"}, {NO_TEXT: 1, GAPS: 1}),
        ("names: [car, '  ', [ship], {a: b}]", {0: "car"}, {NO_TEXT: 3}),
        ("names: &n [car, *n]", {0: "car"}, {NO_TEXT: 1}),
        ('names: [car, "\\ud800"]', {0: "car"}, {NO_TEXT: 1}),
        (
            "names: {0: car, 0: ship, '0': bus}",
            {0: "car"},
            {("error", "class numbers with two names, the second left out"): 2},
        ),
        ("names: [car, car]", {0: "car", 1: "car"}, {("warning", "class names that several numbers have, joined"): 1}),
        (
            "nc: 3\nnames: [car, ship]",
            {0: "car", 1: "ship"},
            {("warning", "files whose number of classes (nc) does not fit the names"): 1},
        ),
        ("a: &a {0: car, 1: bus}\nnames:\n  <<: *a\n  1: ship\n", {0: "car", 1: "ship"}, {}),
        ("a: &a {0: car}\nb: &b {<<: *a, 0: van, 1: ship}\nnames: {<<: [*a, *b]}", {0: "car", 1: "ship"}, {}),
        ("names: &n {<<: *n, 0: car}", {0: "car"}, {}),
        ("a: &a {<<: [*a, *a], 1: ship}\nnames: {<<: [*a, *a, 5], 0: car}", {0: "car", 1: "ship"}, {}),
        ("nc: 2\nnames: !!python/tuple [car, ship]", {0: "car", 1: "ship"}, {}),
    ],
)
def test_names_in_yaml(tmp_path, text, names, kinds):
    assert names_of(tmp_path, text) == (names, kinds)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("names: car, ship", r"data.yaml, line 1: names is the text 'car, ship', but must be a list.*--classes"),
        ("nc: 2\nnames: 5", r"data.yaml, line 2: names is the text '5'"),
        ("names: 2024-01-01", r"line 1: names is the text '2024-01-01'"),
        ("names: %s" % ("9" * 5000), r"line 1: names is the text '9{80}'"),
        ("names: {car: 0, ship: 1}", r"data.yaml holds no class names: needed is a list.*Found: 2 class numbers"),
        ("names: [car", r"No class names .*Not readable: .*data.yaml: while parsing a flow sequence"),
        ("[" * 100_000, r"No class names .*Not readable: .*data.yaml: maximum recursion depth"),
        ("names: []", "No class names"),
        ("names:", "No class names"),
        ("- names", "No class names"),
    ],
)
def test_names_that_are_none(tmp_path, text, message):
    root = tmp_path / "set"
    picture(root / "a.png")
    (root / "a.txt").write_text("1 0.5 0.5 0.2 0.1\n")
    (root / "data.yaml").write_text(text)
    with pytest.raises(DatasetError, match=message) as raised:
        convert("yolo", root)
    assert len(str(raised.value)) < 1500
    assert [o[1] for o in objects(convert("yolo", root, classes=["car", "ship"]))] == ["ship"]


def test_yaml_that_grows_when_it_is_written_out(tmp_path):
    """Nine lists of nine, eight times one in the other: 43 million names, of which none is a text."""
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 8)]
    names, kinds = names_of(tmp_path, "\n".join([*lines, "names: [car, *a7]"]))
    assert names == {0: "car"}
    assert kinds == {NO_TEXT: 1}


def test_merges_that_grow_when_they_are_written_out(tmp_path):
    """Maps that merge two others twice, thirty times one in the other: a thousand million pairs."""
    lines = ["a0: &a0 {0: car}", *(f"a{i}: &a{i} {{<<: [*a{i - 1}, *a{i - 1}]}}" for i in range(1, 31))]
    assert names_of(tmp_path, "\n".join([*lines, "names: {<<: *a30, 1: ship}"])) == ({0: "car", 1: "ship"}, {})


def test_yaml_runs_nothing(tmp_path):
    target = tmp_path / "ran"
    text = f"names: !!python/object/apply:pathlib.Path.touch [!!python/object/apply:pathlib.Path ['{target}']]"
    with pytest.raises(DatasetError):
        names_of(tmp_path, text)
    assert not target.exists()


@pytest.mark.parametrize(
    ("text", "names", "gaps"),
    [
        ("car\n\nship\n", {0: "car", 2: "ship"}, 1),
        ("\ncar\n", {1: "car"}, 1),
        ("car\r\nship\r\n\r\n\r\n", {0: "car", 1: "ship"}, 0),
    ],
)
@pytest.mark.parametrize("file", ["classes.txt", "obj.names"])
def test_blank_lines_do_not_shift_classes(tmp_path, text, names, gaps, file):
    assert names_of(tmp_path, text, file) == (names, {GAPS: 1} if gaps else {})


def test_files_of_names_that_contradict_each_other_are_told(tmp_path):
    (tmp_path / "classes.txt").write_text("car\nship\n")
    assert names_of(tmp_path, "names: [car, ship]") == ({0: "car", 1: "ship"}, {})
    kind = ("warning", "files of class names that others contradict")
    assert names_of(tmp_path, "names: [ship, car]") == ({0: "car", 1: "ship"}, {kind: 1})
    assert names_of(tmp_path, "names: 5") == ({0: "car", 1: "ship"}, {kind: 1})


def test_objects_of_a_number_without_a_name_are_counted(tmp_path):
    native(tmp_path, "yolo", {"a": "2 0.5 0.5 0.2 0.1\n1 0.5 0.5 0.2 0.1\n"})
    (tmp_path / "classes.txt").write_text("car\n\nship\n")
    result = convert("yolo", tmp_path)
    assert [o[1] for o in objects(result)] == ["ship"]
    assert found(result.findings) == {GAPS: 1, ("error", "objects of unknown classes, left out"): 1}
    assert [c["name"] for c in result.data["categories"]] == ["car", "ship"]


def test_a_file_of_names_that_is_no_text(tmp_path):
    (tmp_path / "classes.txt").write_bytes("车\n".encode("gb2312"))
    with pytest.raises(DatasetError, match=r"classes.txt cannot be read .*Store it as UTF-8"):
        find_yolo_classes(tmp_path, Findings())
    (tmp_path / "classes.txt").write_text("\n\n")
    with pytest.raises(DatasetError, match=r"classes.txt holds no class names"):
        find_yolo_classes(tmp_path, Findings())


@pytest.mark.parametrize(
    ("text", "shape"),
    [
        ("kpt_shape: [17, 3]", (17, 3)),
        ("kpt_shape: [17, 4]", None),
        ("kpt_shape: 17", None),
        ("kpt_shape: [a, 2]", None),
        ("names: [a]", None),
    ],
)
def test_shapes_of_keypoints(tmp_path, text, shape):
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "data.yaml").write_text(text)
    assert find_keypoint_shape(tmp_path / "set") == shape


# --- what is left ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("level", "ignored"), [("1.0", [1]), ("0.0", [0]), ("0.5", []), ("nan", [])])
def test_levels_of_dota_written_as_fractions(tmp_path, level, ignored):
    texts = {"a": f"10 10 20 10 20 18 10 18 plane {level}\n"}
    result = convert("dota", native(tmp_path, "dota", texts), difficult="ignore")
    assert [a["iscrowd"] for a in result.data["annotations"]] == ignored


@pytest.mark.parametrize(("text", "code"), [("1,0,10,10,8,8,1,4,0,0\n", 1), ("", 0), ("10,20,8,6,1,4,0,0\n", 0)])
def test_labels_without_a_usable_object_are_an_error(tmp_path, capsys, text, code):
    """An image without labels is none."""
    source = native(tmp_path, "visdrone", {"a": text})
    assert main(["convert", "visdrone", str(source), "--output", str(tmp_path / "o.json")]) == code
    assert ("No object could be read" in capsys.readouterr().out) == bool(code)
