"""Checks of dataset statistics, and the page that shows them."""

from __future__ import annotations

import html
import re
from html.parser import HTMLParser
from pathlib import Path

import cv2
import numpy as np
import pytest

from d2tiny.analysis.coverage import Coverage
from d2tiny.data.coco.arrays import GroundTruth, ground_truth_from_dict
from d2tiny.data.tools.statistics import crowded_images, size_table, summary, write_statistics
from d2tiny.utils.errors import DatasetError
from tests.helpers.coco import truth

AREAS = {"tiny": (0.0, 64.0), "small": (64.0, 256.0), "rest": (256.0, 1e10)}


MIXED = [
    (2, 1, 1, 1, 8, 8),  # 64 px²: the border belongs to the lower bin
    (1, 2, 0, 0, 16, 16),  # 256
    (2, 1, 5, 5, 4, 4),
    (3, 2, 9, 9, 20, 20),
    (2, 2, 3, 3, 8, 8.1),  # 64.8
    (2, 1, 0, 0, 9, 9, {"iscrowd": 1}),
    (1, 1, 0, 0, 9, 9, {"area": 30}),  # the stated area counts
]


def test_size_table_by_hand():
    table = size_table(truth(MIXED), AREAS)
    assert table.tolist() == [[3, 0, 0, 3], [0, 2, 1, 3]]
    assert table.dtype.kind == "i"


def test_areas_outside_all_bins_count_in_the_last_column_only():
    assert size_table(truth(MIXED), {"middle": (60.0, 70.0)}).tolist() == [[1, 1 + 2], [1, 1 + 2]]
    assert size_table(truth([]), AREAS).tolist() == [[0] * 4] * 2
    assert size_table(truth([], images=0, classes=()), AREAS).shape == (0, 4)


def test_summary_by_hand():
    """Sizes 4, 5.48 (root of 30), 8, 8.05, 16, 20: the median is 8.02, 4 of 6 are under 16; 6 objects in 4 images."""
    assert summary(truth(MIXED, images=4, regions=[(1, 0, 0, 5, 5), (3, 0, 0, 5, 5)])) == {
        "images": "4",
        "objects": "6",
        "classes": "2",
        "ignored": "3",
        "median size": "8.0 px",
        "under 16 px": "67 %",
        "objects per image": "1.5",
        "most in one image": "3",
    }
    assert summary(truth([(1, 1, 0, 0, 2, 2)] * 1234))["objects"] == "1,234"


@pytest.mark.parametrize("images", [0, 2])
def test_summary_of_nothing(images):
    found = summary(truth([], images=images))
    assert (found["images"], found["objects"], found["most in one image"]) == (str(images), "0", "0")
    assert (found["median size"], found["under 16 px"]) == ("–", "–")
    assert found["objects per image"] == ("0.0" if images else "–")


def test_crowded_images_by_hand():
    """3 objects in image 2, 2 in image 1, 1 in image 3; ties stay in order; empty images are left out."""
    assert crowded_images(truth(MIXED, images=5)).tolist() == [1, 0, 2]
    assert crowded_images(truth(MIXED), number=1).tolist() == [1]
    assert crowded_images(truth([(i, 1, 0, 0, 2, 2) for i in (3, 1, 2)])).tolist() == [0, 1, 2]
    assert crowded_images(truth([(1, 1, 0, 0, 2, 2, {"ignore": 1})])).tolist() == []
    assert crowded_images(truth([], images=0)).tolist() == []


class Page(HTMLParser):
    """What a page loads, and whether its tags close."""

    void = frozenset({"meta", "img", "br", "input", "link", "hr"})

    def __init__(self, text: str) -> None:
        super().__init__()
        self.loads: list[str] = []
        self.open: list[str] = []
        self.tags: set[str] = set()
        self.feed(text)
        self.loads += re.findall(r"(?:url\(|@import)\s*['\"]?([^'\")\s]+)", text)
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        self.loads += [value or "" for name, value in attrs if name in ("src", "href", "xlink:href", "data", "srcset")]
        if tag not in self.void:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        if tag not in self.void:
            self.open.pop()

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def rows(text: str) -> list[list[str]]:
    return [
        [html.unescape(cell) for cell in re.findall(r"<t[dh][^>]*>(.*?)</t[dh]>", row)]
        for row in re.findall(r"<tr>(.*?)</tr>", text)
    ]


def write(folder: Path, gt: GroundTruth, **options) -> str:
    write_statistics(gt, AREAS, folder / "deep" / "page", **options)
    return (folder / "deep" / "page" / "index.html").read_text(encoding="utf-8")


@pytest.fixture
def pictures(tmp_path):
    """Images 1 and 2 of three; the first is broken."""
    folder = tmp_path / "images"
    folder.mkdir()
    cv2.imwrite(str(folder / "2.png"), np.full((48, 64, 3), 90, np.uint8))
    (folder / "1.png").write_bytes(b"broken")
    return folder


def test_the_page_is_self_contained_and_escaped(tmp_path, pictures):
    coverage = Coverage("<i>mine", (4, 8), 6, (3, 0), np.array([True, False, False, False, False, True]))
    options = {"images": pictures, "coverages": [coverage], "title": "a <script> & b"}
    text = write(tmp_path, truth(MIXED), **options)
    page = Page(text)
    assert page.loads
    assert all(load.startswith(("#", "data:image/")) for load in page.loads)
    assert {"b", "i", "script"} & page.tags == {"b"}  # its own <b> in the cards
    assert "<b>x" not in text
    assert "&lt;b&gt;x" in text
    assert "&lt;i&gt;mine" in text
    assert "<title>a &lt;script&gt; &amp; b</title>" in text
    assert text == write(tmp_path / "again", truth(MIXED), **options)


def test_the_tables_of_the_page_by_hand(tmp_path):
    """Objects image by image: 256, 30 | 64, 16, 64.8 | 400 px². Unserved: the first and the fourth.

    Percent of six objects: 3 -> 50.0, 1 -> 16.7, 2 -> 33.3. By bin: tiny is 30, 64, 16 (one of three), small 256, 64.8
    (one of two), rest 400 (none).
    """
    coverage = Coverage("mine", (4, 8), 6, (3, 1), np.array([True, False, False, True, False, False]))
    text = write(tmp_path, truth(MIXED), coverages=[coverage])
    header, car, other, total, levels, mine = rows(text)
    assert header == ["class", "tiny (0-8 px)", "small (8-16 px)", "rest (over 16 px)", "all"]
    assert [car, other] == [["car", "3", "0", "0", "3"], ["<b>x", "0", "2", "1", "3"]]
    assert total == ["all", "3", "2", "1", "6"]
    assert levels == ["config", "stride 4", "stride 8", "none", "none of tiny", "none of small", "none of rest"]
    assert mine == ["mine", "50.0", "16.7", "33.3", "33.3", "50.0", "0.0"]


def test_the_columns_fit_detectors_of_different_pyramids(tmp_path):
    served = np.zeros(6, bool)
    coverages = [Coverage("a", (4, 8), 6, (1, 2), served), Coverage("b", (2, 4, 8), 6, (1, 2, 3), served)]
    for order in (coverages, coverages[::-1]):
        headers, *lines = rows(write(tmp_path, truth(MIXED), coverages=order))[4:]
        assert {len(line) for line in lines} == {len(headers)}
        for line in lines:
            assert line[headers.index("none")] == "0.0"
            assert line[headers.index("stride 8")] == {"a": "33.3", "b": "50.0"}[line[0]]


def test_missing_and_broken_pictures_are_left_out(tmp_path, pictures, caplog):
    text = write(tmp_path, truth(MIXED), images=pictures)
    assert text.count("<img") == 1
    assert "2.png: 3 objects" in text
    assert "1.png: cannot read this image" in caplog.text
    assert "3.png: cannot read this image" in caplog.text
    assert write(tmp_path, truth(MIXED)).count("<img") == 0
    assert write(tmp_path, truth(MIXED), images=tmp_path / "nowhere").count("<img") == 0


def test_names_that_leave_the_image_folder_are_not_shown(tmp_path, pictures):
    cv2.imwrite(str(tmp_path / "secret.png"), np.zeros((9, 9, 3), np.uint8))
    gt = truth(MIXED)
    outside = GroundTruth(**{**vars(gt), "file_names": ("../secret.png", str(tmp_path / "secret.png"), "")})
    assert write(tmp_path, outside, images=pictures).count("<img") == 0


@pytest.mark.parametrize(("images", "classes"), [(0, ()), (0, ("car",)), (2, ("car",))])
def test_the_page_of_nothing(tmp_path, pictures, images, classes):
    empty = Coverage("mine", (4, 8), 0, (0, 0), np.zeros(0, bool))
    text = write(tmp_path, truth([], images=images, classes=classes), images=pictures, coverages=[empty])
    Page(text)
    assert not re.search(r"\bnan\b", text, re.IGNORECASE)
    assert rows(text)[-1] == ["mine", "0.0", "0.0", "0.0", "–", "–", "–"]
    only_ignored = truth([(1, 1, 0, 0, 5, 5, {"iscrowd": 1})], images=1)
    Page(write(tmp_path, only_ignored, images=pictures))


def test_boxes_by_image_keeps_the_order_of_images_and_of_the_file():
    boxes = truth(MIXED, images=4).boxes_by_image()
    assert [b.tolist() for b in boxes] == [
        [[0, 0, 16, 16], [0, 0, 9, 9]],
        [[1, 1, 9, 9], [5, 5, 9, 9], [3, 3, 11, pytest.approx(11.1)]],
        [[9, 9, 29, 29]],
        [],
    ]
    assert all(b.shape[1] == 4 for b in boxes)


@pytest.mark.parametrize("images", [0, 1, 3])
def test_boxes_by_image_has_one_entry_for_each_image(images):
    assert [b.shape for b in truth([], images=images).boxes_by_image()] == [(0, 4)] * images


def test_boxes_by_image_does_not_lend_its_arrays():
    gt = truth(MIXED)
    gt.boxes_by_image()[0][:] = -1
    assert gt.boxes[1].tolist() == [0, 0, 16, 16]


def test_with_images_keeps_what_belongs_to_them():
    gt = truth(MIXED, images=4, regions=[(1, 1, 1, 2, 2), (3, 3, 3, 4, 4), (4, 0, 0, 1, 1)])
    part = gt.with_images([3, 2, 3])
    assert part.image_ids.tolist() == [2, 3]
    assert part.file_names == ("2.png", "3.png")
    assert part.sizes.tolist() == [[64, 48]] * 2
    assert part.image.tolist() == [0, 0, 1, 0, 0]
    assert part.boxes[:, 0].tolist() == [1, 5, 9, 3, 0]
    assert part.ignore.tolist() == [False] * 4 + [True]
    assert (part.region_image.tolist(), part.regions.tolist()) == ([1], [[3, 3, 4, 4]])
    assert part.region_drops.tolist() == [True]
    assert part.classes == gt.classes
    assert [len(b) for b in part.boxes_by_image()] == [3, 1]
    assert len(gt) == len(MIXED)  # not modified
    assert len(gt.with_images([]).image_ids) == 0
    with pytest.raises(DatasetError, match=r"2 of 3 image ids to evaluate are not in the ground truth \(first: 7\)"):
        gt.with_images([7, 1, 9])


@pytest.mark.parametrize("area", [64 * 48, 0, 1e300])
def test_areas_that_cannot_be_are_those_of_the_boxes(tmp_path, area):
    """As some exporters write them: all equal the image's, or 0."""
    objects = ground_truth_from_dict(
        {
            "images": [{"id": 1, "file_name": "a.png", "width": 64, "height": 48}],
            "categories": [{"id": 1, "name": "a"}],
            "annotations": [{"image_id": 1, "category_id": 1, "bbox": [5, 5, 9, 4], "area": area}],
        }
    )
    areas = {"small": (0, 100), "large": (100, 1e10)}
    assert summary(objects)["median size"] == "6.0 px"
    assert size_table(objects, areas).tolist() == [[1, 0, 1]]
    write_statistics(objects, areas, tmp_path)


def test_far_boxes_are_drawn(tmp_path):
    cv2.imwrite(str(tmp_path / "a.png"), np.zeros((48, 64, 3), np.uint8))
    objects = ground_truth_from_dict(
        {
            "images": [{"id": 1, "file_name": "a.png", "width": 64, "height": 48}],
            "categories": [{"id": 1, "name": "a"}],
            "annotations": [
                {"image_id": 1, "category_id": 1, "bbox": box} for box in ([-9e8, -9e8, 1e9, 1e9], [9e8, 5, 3, 3])
            ],
        }
    )
    write_statistics(objects, {"all": (0, 1e10)}, tmp_path / "out", images=tmp_path)
    assert "2 objects" in (tmp_path / "out" / "index.html").read_text()
