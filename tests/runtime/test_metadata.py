"""What an exported model says of itself: written, read, and refused where it is not what it must be."""

from __future__ import annotations

import json

import pytest

from d2tiny.runtime import ModelMetadata
from d2tiny.utils.errors import ConfigError
from tests.helpers.exported import metadata

RESIZES = [None, {"kind": "shortest_edge", "short": 800, "max": 1333}, {"kind": "factor", "factor": 2.0}]


@pytest.mark.parametrize("resize", RESIZES)
def test_round_trip(resize):
    about = metadata(resize=resize, max_size=4096, title="Größe 32 px")
    text = about.to_json()
    assert ModelMetadata.from_json(text) == about
    assert json.loads(text)["format_version"] == 1
    assert ModelMetadata.from_json(text).classes == ("red", "blue")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("no json", "no json"),
        ("[]", "must be a json object"),
        ("{}", "format_version=None, but this d2tiny reads 1"),
        ('{"format_version": 2}', "format_version=2, but this d2tiny reads 1"),
        ('{"format_version": true}', "format_version=True"),
        ('{"format_version": 1, "config": "a"}', "missing batch, channels, classes"),
    ],
)
def test_other_texts(text, message):
    with pytest.raises(ConfigError, match=message):
        ModelMetadata.from_json(text)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("classes", [], "classes=.* must be a list of one or more names"),
        ("classes", "car", "must be a list"),
        ("channels", "GBR", "channels='GBR' must be RGB or BGR"),
        ("tile", 100, "tile=100 must be a multiple of 32 px"),
        ("max_size", 0, "max_size=0 must be null or"),
        ("resize", {"kind": "factor"}, "resize=.* must be null"),
        ("resize", {"kind": "factor", "factor": 0}, "number over 0"),
        ("resize", {"kind": "fit", "factor": 2}, "must be null"),
        ("resize", 2, "resize=2 must be null or an object"),
        ("batch", 1, "batch=1 must be true or false"),
        ("nms_thresh", 1.5, r"in \[0, 1\]"),
        ("score_thresh", "low", r"in \[0, 1\]"),
        ("max_detections", 0, "a whole number from 1"),
        ("precision", "fp16", "fp32, bf16 or int8"),
        ("weights_sha256", None, "must be a text"),
        ("more", 1, "unknown more"),
    ],
)
def test_wrong_values(key, value, message):
    data = {**json.loads(metadata().to_json()), key: value}
    with pytest.raises(ConfigError, match=message):
        ModelMetadata.from_json(json.dumps(data))
