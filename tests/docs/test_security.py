"""SECURITY.md: it is linked, and the tests and doors that it names exist. What it says is tested there."""

from __future__ import annotations

import re

from d2tiny.config.safe_yaml import MAX_YAML_BYTES
from tests.helpers import ROOT


def test_the_page_is_linked_and_its_tests_exist():
    text = (ROOT / "SECURITY.md").read_text()
    assert "(SECURITY.md)" in (ROOT / "README.md").read_text()
    named = re.findall(r"`(tests/\S+\.py)`", text)
    assert len(named) == 7
    assert all((ROOT / name).is_file() for name in named)
    assert f"at most {MAX_YAML_BYTES >> 20} MB" in text


def test_every_kind_of_file_is_in_the_table():
    text = (ROOT / "SECURITY.md").read_text()
    never = text[text.index("## What is never executed") :]
    for kind in (".pth", ".pkl", "last_checkpoint", ".yaml", "json", "xml", ".onnx"):
        assert kind in never
    assert ".py` configs are Python programs" in text[: text.index("## What is never executed")]
