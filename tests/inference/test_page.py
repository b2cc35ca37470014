from __future__ import annotations

import base64
import json
import logging
import re
import shutil
import subprocess
from html.parser import HTMLParser

import cv2
import numpy as np
import pytest

from d2tiny.inference.page import write_page
from d2tiny.inference.scene import GeoReference, Scene, SceneDetections
from d2tiny.utils.errors import ConfigError, DatasetError
from tests.helpers import ROOT

NAMES = ("ship", "car", "tree")
VIEWER = ROOT / "d2tiny" / "inference" / "viewer"
NODE = shutil.which("node")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
needs_node = pytest.mark.skipif(NODE is None, reason="node runs the page's script; there is none on this machine")
EVIL = "</script><script>alert(1)</script><!--<img src=x onerror=alert(1)>&\"'\u2028.tif"
VOID = {"meta", "input", "br", "img", "link"}


class Picture:
    """A scene in memory: a gradient, so that every place has its colour."""

    def __init__(self, width, height):
        self.width, self.height = width, height

    def rows(self, first, last):
        y, x = np.mgrid[first:last, : self.width]
        channels = (x * 255 // self.width, y * 255 // self.height, np.full_like(x, 128))
        return np.stack(channels, axis=2).astype(np.uint8)


class Parsed(HTMLParser):
    """Elements of a page: tag and attributes, blocks of data by id, and whether all are closed in order."""

    def __init__(self, text):
        super().__init__()
        self.elements, self.data, self.scripts, self.open, self.texts = [], {}, [], [], []
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        attributes = self.elements[-1][1]
        if self.open[-1:] == ["script"] and "id" in attributes:
            self.data[attributes["id"]] = self.data.get(attributes["id"], "") + data
        elif self.open[-1:] == ["script"]:
            self.scripts.append(data)
        else:
            self.texts.append(data)


def make(path, boxes, classes, scores, *, size=(400, 300), names=NAMES, name="port.tif", geo=None, **options):
    scene = Scene(name, *size, names, geo, model="made", settings={"tile": 800})
    parts = [
        SceneDetections(
            scene,
            np.array(boxes[i : i + 2], dtype=np.float64).reshape(-1, 4),
            np.array(scores[i : i + 2], dtype=np.float32),
            np.array(classes[i : i + 2], dtype=np.int64),
        )
        for i in range(0, len(boxes), 2)
    ]
    write_page(path, scene, iter(parts), Picture(*size), **options)
    return path.read_text(encoding="utf-8")


def decoded(page):
    """The objects of a page as its script reads them."""
    kinds = {attributes["id"]: attributes.get("data-kind") for _, attributes in page.elements if "id" in attributes}
    return [
        np.frombuffer(base64.b64decode(page.data[f"data-{name}"], validate=True), dtype=f"<{kinds[f'data-{name}']}")
        for name in ("boxes", "scores", "classes")
    ]


def tiles(page):
    """Level, column and row of each tile, and its pixels."""
    for name, text in page.data.items():
        if match := re.fullmatch(r"tile-(\d+)-(\d+)-(\d+)", name):
            data = np.frombuffer(base64.b64decode(text, validate=True), np.uint8)
            yield tuple(map(int, match.groups())), cv2.cvtColor(cv2.imdecode(data, 1), cv2.COLOR_BGR2RGB)


SOME = ([[10, 20, 30, 40], [200.3, 100.7, 204, 105], [60, 60, 90, 100]], [0, 1, 0], [0.9, 0.3, 0.6])


def test_objects_come_by_ascending_score(tmp_path):
    page = Parsed(make(tmp_path / "a.html", *SOME))
    boxes, scores, classes = decoded(page)
    assert np.allclose(boxes.reshape(-1, 4), [SOME[0][i] for i in (1, 2, 0)], atol=1e-4)
    assert np.allclose(scores / 65535, [0.3, 0.6, 0.9], atol=1e-5)
    assert classes.tolist() == [1, 0, 0]
    assert classes.dtype == np.uint8
    described = json.loads(page.data["data-scene"])
    assert (described["width"], described["height"], described["classes"]) == (400, 300, list(NAMES))
    assert described["colors"][0] == "#ff5a50"
    assert "3 objects · 400 × 300 px · made" in page.texts


def test_many_objects_far_out(tmp_path):
    """More bytes than are encoded at once; precise to 0.1 px where a scene has a million px a side."""
    rng = np.random.default_rng(0)
    count = 400_000
    scene = Scene("a.tif", 30, 20, tuple(map(str, range(300))))
    boxes = rng.uniform(0, 1e6, (count, 4))
    classes, scores = rng.integers(0, 300, count), rng.random(count).astype(np.float32)
    write_page(tmp_path / "a.html", scene, [SceneDetections(scene, boxes, scores, classes)], Picture(30, 20))
    found = decoded(Parsed((tmp_path / "a.html").read_text()))
    order = np.argsort(scores, kind="stable")
    assert np.abs(found[0].reshape(-1, 4) - boxes[order]).max() < 0.1
    assert np.abs(found[1] / 65535 - scores[order]).max() < 1e-5
    assert np.array_equal(found[2], classes[order])
    assert found[2].dtype == np.uint16


def test_image_is_a_pyramid_of_tiles(tmp_path):
    page = Parsed(make(tmp_path / "a.html", [], [], [], size=(1100, 700)))
    image = json.loads(page.data["data-scene"])["image"]
    assert image == {"width": 1100, "height": 700, "factor": 1.0, "tile": 512, "levels": 3}
    found = dict(tiles(page))
    assert sorted(found) == [(0, 0, 0)] + [(1, x, 0) for x in (0, 1)] + [(2, x, y) for x in (0, 1, 2) for y in (0, 1)]
    shapes = {place: pixels.shape[1::-1] for place, pixels in found.items()}
    assert (shapes[0, 0, 0], shapes[1, 1, 0], shapes[2, 2, 1]) == ((275, 175), (38, 350), (76, 188))
    whole = Picture(1100, 700).rows(0, 700).astype(int)
    assert np.abs(found[2, 1, 1] - whole[512:, 512:1024]).max() < 12  # JPEG
    assert np.abs(found[0, 0, 0][100, 200] - whole[402, 802]).max() < 12


def test_large_scenes_are_reduced_and_boxes_keep_their_place(tmp_path):
    page = Parsed(make(tmp_path / "a.html", *SOME, size=(3000, 1500), page_size=700))
    image = json.loads(page.data["data-scene"])["image"]
    assert (image["width"], image["height"], image["levels"]) == (693, 347, 2)
    assert image["factor"] == pytest.approx(3 / 13)
    assert np.allclose(decoded(page)[0][-4:], SOME[0][0])


def test_nothing_is_loaded(tmp_path):
    """No element names an address, and the policy forbids the scripts to."""
    page = Parsed(make(tmp_path / "a.html", *SOME))
    assert not [e for e in page.elements if {"src", "href", "srcset", "action", "style"} & set(e[1])]
    assert not [tag for tag, _ in page.elements if tag in {"link", "iframe", "img", "base", "object", "embed"}]
    policy = next(e[1]["content"] for e in page.elements if e[1].get("http-equiv") == "Content-Security-Policy")
    rules = dict(rule.split(" ", 1) for rule in policy.split("; "))
    assert rules.pop("default-src") == "'none'"
    assert rules.pop("img-src") == "data:"
    assert set(rules) == {"style-src", "script-src"}
    assert "unsafe" not in rules["script-src"]
    style = (tmp_path / "a.html").read_text().split("<style>")[1].split("</style>")[0]
    assert not re.search(r"url\(|@import", style)
    names = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
    assert len(names) == len(set(names))
    labelled = {attributes.get("for") for tag, attributes in page.elements if tag == "label"}
    assert "score" in labelled


def test_names_cannot_break_out(tmp_path):
    geo = GeoReference('PROJCRS["</script><b>"]', (1.0, 0.0, 0.0, 0.0, -1.0, 0.0))
    plain = Parsed(make(tmp_path / "a.html", *SOME, geo=GeoReference("EPSG:32631", geo.transform)))
    text = make(tmp_path / "b.html", *SOME, names=(EVIL, "b", "c"), name=f"in/{EVIL}\udc80", geo=geo)
    page = Parsed(text)
    assert [tag for tag, _ in page.elements] == [tag for tag, _ in plain.elements]
    assert page.scripts == plain.scripts
    assert len(page.scripts) == 2
    described = json.loads(page.data["data-scene"])
    assert described["classes"][0] == EVIL
    assert described["crs"] == "</script><b>"
    assert f"{EVIL.rsplit('/', 1)[1]}?" in page.texts
    assert "<script>alert" not in text
    assert "<img src=x" not in text


def test_size_is_said_and_nothing_is_left_of_a_failure(tmp_path, caplog):
    with caplog.at_level(logging.INFO):
        make(tmp_path / "a.html", *SOME)
    megabytes = (tmp_path / "a.html").stat().st_size / 1e6
    assert f"a.html: {megabytes:.1f} MB, image of 400×300 px, 3 objects" in caplog.text

    class Torn(Picture):
        def rows(self, first, last):
            raise DatasetError("torn.tif: cannot read rows")

    scene = Scene("torn.tif", 40, 30, NAMES)
    with pytest.raises(DatasetError, match="cannot read rows"):
        write_page(tmp_path / "torn.html", scene, [], Torn(40, 30))
    assert [p.name for p in tmp_path.iterdir()] == ["a.html"]


def test_wrong_inputs(tmp_path):
    scene = Scene("a.tif", 40, 30, NAMES)
    with pytest.raises(DatasetError, match=r"a.tif: pixels of 30×40 px do not belong to a scene of 40×30 px"):
        write_page(tmp_path / "a.html", scene, [], Picture(30, 40))
    with pytest.raises(ConfigError, match="--page-size 10: it must be at least 256"):
        write_page(tmp_path / "a.html", scene, [], Picture(40, 30), page_size=10)
    assert not list(tmp_path.iterdir())


def test_viewer_is_packaged_as_its_readme_and_notice_say():
    text = (VIEWER / "openseadragon.min.js").read_text()
    version = re.match(r"//! openseadragon ([\d.]+)", text)[1]
    for page in (VIEWER / "README.md", ROOT / "NOTICE"):
        assert f"OpenSeadragon {version}" in page.read_text()
    assert "Redistributions in binary form" in (VIEWER / "LICENSE").read_text()
    assert "inference/viewer/*" in (ROOT / "setup.py").read_text()
    for script in VIEWER.glob("*.js"):
        assert not re.search(r"</script|<!--|\r|sourceMappingURL", script.read_bytes().decode(), flags=re.IGNORECASE)


@needs_node
@pytest.mark.parametrize("script", sorted(VIEWER.glob("*.js")), ids=lambda path: path.name)
def test_syntax(script):
    subprocess.run([NODE, "--check", str(script)], check=True, capture_output=True, timeout=60)


def plain(text):
    return " ".join(text.split())


def shown(path, *actions):
    """Run the page's script in node, and return what it shows after some actions."""
    command = [NODE, str(ROOT / "tests" / "helpers" / "page.js"), str(path), json.dumps(actions)]
    result = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout)


@needs_node
def test_script_filters_by_score_and_class(tmp_path):
    """A view of 100 px shows 400: a box of 20 px has 5 px there, and its line lies half a pixel outside."""
    make(tmp_path / "a.html", *SOME)
    page = shown(tmp_path / "a.html")
    assert (page["shown"], page["all"], plain(page["classes"])) == ("3", "3", "ship 2 / 2 car 1 / 1")
    assert page["rects"][-1] == ["#ff5a50", 10 / 4 - 0.5, 20 / 4 - 0.5, 6, 6]  # the highest score, last
    assert len(page["rects"]) == 2
    assert [point[0] for point in page["points"]] == ["#ffaa00"]  # 4 px are one: a point
    assert page["tile"].startswith("data:image/jpeg;base64,/9j/")
    assert [line for line in page["sizes"] if not line.endswith(": 0")] == [
        "2.8 to 4.0 px: 1",
        "16.0 to 22.6 px: 1",
        "32.0 to 45.3 px: 1",
    ]
    page = shown(tmp_path / "a.html", ["score", 0.6])
    assert (page["shown"], plain(page["classes"])) == ("2", "ship 2 / 2 car 0 / 1")
    assert page["score-value"] == "0.60"
    page = shown(tmp_path / "a.html", ["class", 0, False])
    assert (page["shown"], page["rects"], len(page["points"])) == ("1", [], 1)
    assert shown(tmp_path / "a.html", ["none"])["shown"] == "0"
    assert shown(tmp_path / "a.html", ["score", 1])["shown"] == "0"


@needs_node
def test_script_tells_of_an_object(tmp_path):
    geo = GeoReference("EPSG:32631", (2.0, 0.5, 1000.0, 0.25, -2.0, 9000.0))
    make(tmp_path / "a.html", *SOME, geo=geo)
    page = shown(tmp_path / "a.html", ["click", 5, 7.5], ["point", 10, 20])
    # The centre (20, 30): 2·20 + 0.5·30 + 1000 = 1055, 0.25·20 - 2·30 + 9000 = 8945.
    expected = "class ship score 0.900 size 20.0 × 20.0 px, √area 20.0 px corners 10.0, 20.0 – 30.0, 40.0"
    assert page["object"] == f"{expected} centre 1055.0, 8945.0 in EPSG:32631"
    # Column 40, row 80: 2·40 + 0.5·80 + 1000 = 1120, 0.25·40 - 2·80 + 9000 = 8850.
    assert page["pointer"] == "column 40, row 80 · 1120.0, 8850.0 (EPSG:32631)"
    assert shown(tmp_path / "a.html", ["click", 90, 10])["object"].startswith("Click on a box")
    # A filter that hides the selected object drops it.
    assert shown(tmp_path / "a.html", ["click", 5, 7.5], ["class", 0, False])["object"].startswith("Click on a box")
    for step, times, score in (
        ("next", 1, "0.900"),
        ("next", 2, "0.600"),
        ("next", 5, "0.300"),
        ("previous", 1, "0.300"),
    ):
        page = shown(tmp_path / "a.html", *[[step]] * times)
        assert f"score {score}" in page["object"]
    x1, y1, x2, y2 = page["view"]
    assert ((x1 + x2) / 2, (y1 + y2) / 2) == pytest.approx((202.15, 102.85))


@needs_node
def test_script_draws_what_lies_in_view(tmp_path):
    """Against a plain loop over all boxes, with objects from 1 px to half of the scene, some of them over its edge."""
    rng = np.random.default_rng(0)
    centre, side = rng.uniform(0, 2000, (3000, 2)), 2 ** rng.uniform(0, 10, (3000, 2))
    boxes = np.concatenate((centre - side / 2, centre + side / 2), axis=1).astype(np.float32)
    scores, classes = rng.random(3000), rng.integers(0, 3, 3000)
    make(tmp_path / "a.html", boxes, classes, scores, size=(2000, 2000))
    for view in ([500, 600, 700, 800], [0, 0, 30, 30], [1900, 1900, 2100, 2100], [-300, -300, -100, -100]):
        page = shown(tmp_path / "a.html", ["score", 0.25], ["class", 1, False], ["draw", "boxes"], ["view", *view])
        kept = (np.round(scores * 65535) >= round(0.25 * 65535)) & (classes != 1)
        meets = (boxes[:, :2] <= view[2:]).all(1) & (boxes[:, 2:] >= view[:2]).all(1)
        expected = boxes[kept & meets][np.argsort(scores[kept & meets])]
        zoom = 100 / (view[2] - view[0])
        small = ((expected[:, 2:] - expected[:, :2]) * zoom < 3).all(1)
        assert (len(page["rects"]), len(page["points"])) == ((~small).sum(), small.sum())
        lines = (expected[~small] - np.tile(view[:2], 2)) * zoom
        found = np.array([box[1:] for box in page["rects"]]).reshape(-1, 4)
        assert np.allclose(found[:, :2], lines[:, :2] - 0.5, atol=1e-2)
        assert np.allclose(found[:, 2:], lines[:, 2:] - lines[:, :2] + 1, atol=1e-2)


@needs_node
def test_script_draws_a_density_map_of_too_many_boxes(tmp_path):
    rng = np.random.default_rng(0)
    centre = rng.uniform(0, 999, (21_000, 2))
    scene = Scene("a.tif", 1000, 1000, NAMES)
    boxes = np.concatenate((centre - 1, centre + 1), axis=1)
    boxes[:500] = [499, 499, 501, 501]  # in one cell
    objects = SceneDetections(scene, boxes, np.linspace(0, 1, 21_000, dtype=np.float32), np.zeros(21_000, np.int64))
    write_page(tmp_path / "a.html", scene, [objects], Picture(1000, 1000))
    page = shown(tmp_path / "a.html")
    assert (page["images"], page["points"]) == (1, [])
    assert "density map" in page["mode"]
    assert 500 <= int(re.match(r"(\d+) objects in 7 px square", page["ramp-top"])[1]) < 510
    page = shown(tmp_path / "a.html", ["score", 0.1])
    assert (page["images"], len(page["points"])) == (0, 18_900)
    assert shown(tmp_path / "a.html", ["draw", "none"])["points"] == []
    assert len(shown(tmp_path / "a.html", ["draw", "boxes"])["points"]) == 21_000
    assert len(shown(tmp_path / "a.html", ["draw", "boxes"], ["event", "animation-start"])["points"]) == 10_000
    page = shown(tmp_path / "a.html", ["draw", "boxes"], ["event", "animation-start"], ["event", "animation-finish"])
    assert len(page["points"]) == 21_000
    page = shown(tmp_path / "a.html", ["view", 0, 0, 100, 100])  # close by, few
    assert page["images"] == 0
    assert 100 < len(page["rects"]) + len(page["points"]) < 400
    assert shown(tmp_path / "a.html", ["view", 0, 0, 100, 100], ["draw", "density"])["images"] == 1


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")
def test_in_a_browser(tmp_path):
    """The policy lets the scripts run, the viewer opens, and the counts are there."""
    make(tmp_path / "a.html", *SOME, names=(EVIL, "b", "c"))
    command = [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--virtual-time-budget=4000", "--dump-dom"]
    command += [f"--user-data-dir={tmp_path / 'profile'}", (tmp_path / "a.html").as_uri()]
    page = subprocess.run(command, capture_output=True, text=True, timeout=120).stdout
    assert '<span id="shown">3</span>' in page
    assert '<canvas id="boxes"' in page
    assert "3 boxes in view" in page
    assert '<span class="name">&lt;/script&gt;&lt;script&gt;alert(1)' in page
