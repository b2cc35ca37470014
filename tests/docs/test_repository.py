"""Workflows, templates and metadata say the same as setup.py, the Makefile and the package."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

import d2tiny

ROOT = Path(__file__).resolve().parents[2]
SETUP, MAKEFILE = (ROOT / "setup.py").read_text(), (ROOT / "Makefile").read_text()
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
FORMS = sorted((ROOT / ".github" / "ISSUE_TEMPLATE").glob("*.yml"))
FIELDS = {"markdown", "textarea", "input", "dropdown", "checkboxes"}


def read(path: Path):
    return yaml.safe_load(path.read_text())


def supported() -> list[str]:
    """The minor versions that setup.py allows."""
    low, high = re.search(r'python_requires=">=3\.(\d+),<3\.(\d+)"', SETUP).groups()
    return [f"3.{minor}" for minor in range(int(low), int(high))]


def steps(workflow: Path) -> list[dict]:
    return [step for job in read(workflow)["jobs"].values() for step in job["steps"]]


def test_python_versions():
    jobs = read(ROOT / ".github" / "workflows" / "ci.yml")["jobs"]
    assert jobs["test"]["strategy"]["matrix"]["python-version"] == supported()
    for workflow in WORKFLOWS:
        for step in steps(workflow):
            version = step.get("with", {}).get("python-version", supported()[0])
            assert version in (*supported(), "${{ matrix.python-version }}")
    assert f"Python {supported()[0]} to {supported()[-1]}" in MAKEFILE


def test_workflows_call_what_exists():
    targets = set(re.findall(r"^([\w-]+):", MAKEFILE, flags=re.MULTILINE)) | {".venv"}
    called = 0
    for workflow in WORKFLOWS:
        for command in [step["run"] for step in steps(workflow) if "run" in step]:
            words = [word for word in command.split()[1:] if "=" not in word]
            if command.startswith("make "):
                assert set(words) <= targets, command
                called += 1
            for word in words:
                assert not re.match(r"(tests|tools|docs)/", word) or (ROOT / word).exists(), command
    assert called


def test_citation():
    citation = read(ROOT / "CITATION.cff")
    assert citation["version"] == d2tiny.__version__
    assert citation["cff-version"] == "1.2.0"
    assert citation["license"] in re.search(r'license="(.+?)"', SETUP)[1]
    assert {"message", "title", "authors"} <= set(citation)
    # nothing that nobody has given out
    assert not {"doi", "url", "repository-code", "identifiers"} & set(citation)


@pytest.mark.parametrize("path", FORMS, ids=lambda path: path.stem)
def test_issue_forms(path):
    form = read(path)
    if path.stem == "config":
        assert set(form) <= {"blank_issues_enabled", "contact_links"}
        return
    assert {"name", "description", "body"} <= set(form)
    fields = [item.get("id") for item in form["body"]]
    assert len(set(fields)) == len(fields)
    for item in form["body"]:
        assert item["type"] in FIELDS
        assert item["attributes"]["label"]


def test_hooks_are_those_of_make_lint():
    hooks = {hook["id"]: hook for repo in read(ROOT / ".pre-commit-config.yaml")["repos"] for hook in repo["hooks"]}
    lint = re.search(r"^lint:.*\n((?:\t.+\n)+)", MAKEFILE, flags=re.MULTILINE)[1]
    for name in re.findall(r"\$\(BIN\)/(\w+)", lint):
        assert hooks[name]["entry"].startswith(f".venv/bin/{name}")
    assert "--maxkb=10240" in hooks["check-added-large-files"]["args"]
