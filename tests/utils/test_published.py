"""Published weights: what a manifest may say, in which order manifests are asked, and that files are what it says."""

from __future__ import annotations

import json

import pytest

from d2tiny.utils import published
from d2tiny.utils.errors import CheckpointError
from d2tiny.utils.licences import PERMITTED, SHOWN, SOURCES, DataSource, refused_licences
from d2tiny.utils.published import (
    default_weights,
    known_weights,
    manifest_text,
    named_weights,
    read_manifest,
    weights_of_config,
)
from tests.helpers.published import CONFIG, entry, served, write_manifest, write_weights


@pytest.fixture(autouse=True)
def own(tmp_path, monkeypatch):
    """A folder in place of the weights that come with d2tiny, an empty cache, and nothing named by the user."""
    monkeypatch.delenv("D2TINY_WEIGHTS", raising=False)
    monkeypatch.setenv("D2TINY_CACHE", str(tmp_path / "cache"))
    for variable in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(variable, raising=False)
    folder = tmp_path / "own"
    monkeypatch.setattr(published, "shipped_folder", lambda: folder)
    return write_manifest(folder, write_weights(folder, "boats"), write_weights(folder, "cars"), default="cars")


def test_weights_are_found_by_name_by_config_and_by_default(own, tmp_path, monkeypatch):
    assert [weights.name for weights in known_weights()] == ["boats", "cars"]
    assert default_weights().name == "cars"
    assert weights_of_config(CONFIG).name == "boats"  # the first
    assert weights_of_config("quick/yolox_s") is None
    assert named_weights("d2tiny://cars").local_file() == own / "cars.pth"
    assert named_weights("cars").url == "d2tiny://cars"
    monkeypatch.chdir(tmp_path)
    (tmp_path / "cars").write_text("a file comes first")
    assert named_weights("cars") is None
    assert named_weights("d2tiny://cars").name == "cars"


@pytest.mark.parametrize("text", ["model.pth", "a/b", "detectron2://a", "https://example.org/cars", "planes", ""])
def test_what_can_only_be_a_file_is_left_alone(text):
    assert named_weights(text) is None


def test_an_unknown_name_says_which_there_are():
    with pytest.raises(
        CheckpointError, match=r"d2tiny://boast: no published weights have this name\. Did you mean 'boats'"
    ):
        named_weights("d2tiny://boast")


def test_the_users_place_comes_first(own, tmp_path, monkeypatch):
    mine = tmp_path / "mine"
    write_manifest(mine, write_weights(mine, "cars", b"other"), write_weights(mine, "mills"))
    monkeypatch.setenv("D2TINY_WEIGHTS", str(mine))
    assert [weights.name for weights in known_weights()] == ["cars", "mills", "boats"]
    assert named_weights("cars").local_file() == mine / "cars.pth"
    assert default_weights().name == "cars"  # the user's manifest names none, d2tiny's does
    assert default_weights().place == str(own)
    third = write_manifest(tmp_path / "third", write_weights(tmp_path / "third", "lamps"), default="lamps")
    for place in (third, third / "manifest.json"):
        assert default_weights(str(place)).local_file() == third / "lamps.pth"
        assert [weights.name for weights in known_weights(str(place))] == ["lamps", "boats", "cars"]


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"contenT", "is damaged or another file: its sha256 is"), (b"", "is damaged"), (None, "no such file, but")],
)
def test_another_content_than_promised_is_refused(own, content, message):
    path = own / "cars.pth"
    path.unlink() if content is None else path.write_bytes(content)
    with pytest.raises(CheckpointError, match=message) as caught:
        default_weights().local_file()
    assert str(path) in str(caught.value)


BAD = entry("cars", b"x")


@pytest.mark.parametrize(
    ("entries", "changes", "message"),
    [
        ([BAD | {"name": "Cars"}], {}, r"\$.weights\[0\].name"),
        ([BAD | {"file": "../cars.pth"}], {}, r"\$.weights\[0\].file"),
        ([BAD | {"file": "/etc/passwd"}], {}, r"\$.weights\[0\].file"),
        ([BAD | {"config": "/tmp/evil.py"}], {}, r"\$.weights\[0\].config"),
        ([BAD | {"config": "../evil"}], {}, r"\$.weights\[0\].config"),
        ([BAD | {"sha256": "0"}], {}, r"\$.weights\[0\].sha256"),
        ([BAD | {"size": 0}], {}, r"\$.weights\[0\].size"),
        ([BAD | {"classes": []}], {}, r"\$.weights\[0\].classes"),
        ([BAD | {"licens": "MIT"}], {}, "unknown field `licens`"),
        ([{k: v for k, v in BAD.items() if k != "licence"}], {}, "missing required field `licence`"),
        ([BAD, BAD], {}, "names cars more than once"),
        ([BAD], {"default": "boats"}, "default is 'boats'"),
        ([BAD], {"version": 2}, "has version 2, and this d2tiny reads 1. Upgrade"),
        ([BAD], {"version": "1"}, "is no manifest"),
    ],
)
def test_what_a_manifest_must_not_say(tmp_path, entries, changes, message):
    folder = write_manifest(tmp_path / "bad", *entries, **changes)
    with pytest.raises(CheckpointError, match=message) as caught:
        read_manifest(folder)
    assert str(folder / "manifest.json") in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"{", b"[1]", b"\xff\xfe", b"[" * 100_000])
def test_what_is_no_manifest(tmp_path, content):
    (tmp_path / "manifest.json").write_bytes(content)
    with pytest.raises(CheckpointError, match="is no manifest of weights"):
        read_manifest(tmp_path)
    with pytest.raises(CheckpointError, match="cannot read this list"):
        read_manifest(tmp_path / "none")


def test_a_manifest_is_written_as_it_is_read(own):
    manifest = read_manifest(own)
    text = manifest_text(manifest)
    assert "place" not in json.loads(text)["weights"][0]
    (own / "manifest.json").write_text(text)
    assert read_manifest(own) == manifest
    assert str(own) not in text


def test_weights_of_a_url_are_fetched_once(own, tmp_path):
    with served(own) as (url, asked):
        for place in (url, f"{url}/", f"{url}/manifest.json"):
            weights = named_weights("cars", place)
            path = weights.local_file()
        assert path.read_bytes() == b"content"
        assert path.is_relative_to(tmp_path / "cache")
        assert asked.count("/cars.pth") == 1
        path.write_bytes(b"damaged")
        assert weights.local_file().read_bytes() == b"content"
        assert asked.count("/cars.pth") == 2
    assert named_weights("cars", url).local_file() == path  # the server is gone: copies of manifest and file do


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"conten", "it has only 6 bytes of 7"),
        (b"contents", "it has more than 7 bytes"),
        (b"Content", "its sha256 is"),
        (None, "the server answers 404"),
    ],
)
def test_a_url_that_does_not_keep_its_promise(own, tmp_path, content, message):
    path = own / "cars.pth"
    path.unlink() if content is None else path.write_bytes(content)
    with served(own) as (url, _):
        weights = named_weights("cars", url)
        with pytest.raises(CheckpointError, match=message) as caught:
            weights.local_file()
    assert f"{url}/cars.pth" in str(caught.value)
    assert not [file for file in (tmp_path / "cache").iterdir() if "cars" in file.name]  # nothing half-written


def test_without_a_network(own):
    with served(own) as (url, _):
        pass
    with pytest.raises(CheckpointError, match=r"manifest.json: cannot be fetched .*Is there a network\?"):
        read_manifest(url)
    with served(own) as (url, _), pytest.raises(CheckpointError, match="the server answers 404"):
        read_manifest(f"{url}/elsewhere")


def test_a_cache_that_cannot_be_written_is_named(own, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("no folder")
    monkeypatch.setenv("D2TINY_CACHE", str(tmp_path / "file"))
    with served(own) as (url, _), pytest.raises(CheckpointError, match="set D2TINY_CACHE to a folder with room"):
        named_weights("cars", url).local_file()


@pytest.mark.parametrize(
    ("kinds", "default", "expected"),
    [
        ({"boats": "colour", "cars": "grey"}, "cars", {"": "cars", "grey": "cars", "colour": "boats"}),
        ({"boats": "colour", "cars": ""}, "cars", {"": "cars", "grey": "cars", "colour": "boats"}),
        ({"boats": "colour", "cars": "colour"}, "cars", {"": "cars", "grey": "cars", "colour": "cars"}),
        ({"boats": "colour", "cars": "grey"}, "", {"": None, "grey": None, "colour": None}),
    ],
)
def test_the_default_for_a_kind_of_image(tmp_path, monkeypatch, kinds, default, expected):
    entries = [write_weights(tmp_path / "x", name, kind=kind) for name, kind in kinds.items()]
    monkeypatch.setattr(published, "shipped_folder", lambda: tmp_path / "none")
    place = str(write_manifest(tmp_path / "x", *entries, default=default))
    found = {kind: default_weights(place, kind) for kind in expected}
    assert {kind: weights and weights.name for kind, weights in found.items()} == expected


def test_of_several_for_a_kind_the_best_is_taken_and_of_one_detector_only_its_own(tmp_path, monkeypatch):
    """Those with the highest AP, which may be unknown; where a config is named, of that detector on any dataset."""

    def measured(ap):
        return {"dataset": "aerial_val", "protocol": "aitod", "metrics": {"AP": ap}}

    rows = (("boats", 20.0, "quick/yolo11_n"), ("ships", 30.0, "hituav/yolo11_n_p2"), ("tugs", None, "quick/yolo11_n"))
    entries = [
        write_weights(tmp_path / "x", name, kind="colour", config=config, measured=measured(ap))
        for name, ap, config in rows
    ]
    entries.append(write_weights(tmp_path / "x", "lamps", kind="grey"))
    monkeypatch.setattr(published, "shipped_folder", lambda: tmp_path / "none")
    place = str(write_manifest(tmp_path / "x", *entries, default="lamps"))
    assert default_weights(place, "colour").name == "ships"
    assert default_weights(place, "colour", "yolo11_n").name == "boats"
    assert default_weights(place, "colour", "yolov5_s") is None
    assert default_weights(place, "").name == "lamps"


def test_the_users_default_comes_before_shipped_weights_of_the_kind(own, tmp_path, monkeypatch):
    shipped = write_manifest(tmp_path / "s", write_weights(tmp_path / "s", "ships", kind="colour"), default="ships")
    monkeypatch.setattr(published, "shipped_folder", lambda: shipped)
    assert default_weights(kind="colour").name == "ships"
    assert default_weights(str(own), "colour").name == "cars"


def test_only_free_licences_permit_publication():
    assert {source for sources in SHOWN.values() for source in sources} <= set(SOURCES)
    assert not refused_licences(SOURCES.values(), "CC-BY-4.0")
    assert all(source.citation for source in SOURCES.values())
    assert not [spdx for spdx in PERMITTED if "-NC" in spdx or "GPL" in spdx]
    bad = DataSource("Tiles", "CC-BY-NC-SA-4.0", "A. Nobody")
    assert refused_licences([SOURCES["hituav"], bad], "CC-BY-4.0") == ["Tiles: CC-BY-NC-SA-4.0"]
    assert refused_licences([], "") == ["the weights: no licence"]
