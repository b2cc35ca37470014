"""Every block of code of the documentation: a command that can be given, Python that runs, or output."""

from __future__ import annotations

import logging
import re
import shlex

import pytest

from d2tiny.cli import main
from tests.helpers import ROOT
from tests.helpers.cli import EXAMPLES, parsed
from tests.helpers.docs import blocks, commands, pages
from tests.helpers.world import write_world

PAGES = {path.relative_to(ROOT).as_posix(): path.read_text() for path in pages()}
# Pages whose Python runs here as it is written, and tests that run that of others.
RUN_HERE = (
    *("README.md", "docs/start.md", "docs/evaluation.md"),
    *(f"docs/models/{name}.md" for name in ("colour", "colour_x2", "thermal")),
)
RUN_ELSEWHERE = {
    "docs/your_data.md": "test_the_page_of_own_data_from_top_to_bottom",
    "docs/deploy.md": "test_code_of_the_page_of_deployment",
    "docs/assigners.md": "test_own_assigner_and_loss_work",
    "docs/detectors.md": "test_code_of_the_page_of_detectors",
    "docs/backbones.md": "test_the_page_of_backbones",
    "docs/one_stage.md": "test_the_page_of_one_stage_detectors",
    "docs/scalebridge.md": "test_config_with_a_frozen_expert",
    "docs/scenes.md": "test_the_example_in_python",
}
# Words of the shell before and around commands.
SHELL = {"cd", "export", "for", "done", "mv", "git", "pip", "others=bridge,storage-tank,swimming-pool,person,wind-mill"}
# What makes the trainings of pages short.
SHORT = ["train.max_iter=1", "dataloader.train.mapper.augmentations.0.size=[64,64]", "train.device=cpu"]
SHORTER = {
    "train": SHORT,
    "predict": ["--device", "cpu"],
    "draw": ["--train", "3", "--val", "2"],
    "stats": ["--coverage", ""],
}
SCRIPT = re.compile(r"(?:\.venv/bin/)?python (?:-m (pytest)|((?:tools|benchmarks)/\w+\.py)) ?(.*)")


@pytest.mark.parametrize("name", PAGES)
def test_languages_of_blocks(name):
    """Blocks without a language are commands, blocks of text are output or formulas."""
    opened = re.findall(r"^ *```(\w*)$", PAGES[name], flags=re.MULTILINE)
    assert len(opened) % 2 == 0
    assert set(opened[::2]) <= {"", "python", "text"}
    assert set(opened[1::2]) <= {""}


@pytest.mark.parametrize("name", PAGES)
def test_commands_can_be_given(name):
    for line in commands(PAGES[name]):
        words = line.split()
        if words[0] == "d2tiny" and not re.search(r"--help|--print-completion|\$|FOLDER|FILE", line):
            parsed(line)
        elif words[0] == "make":
            targets = [word for word in words[1:] if "=" not in word and not word.startswith("#")]
            assert all(re.search(rf"^{re.escape(t)}:", MAKEFILE, flags=re.MULTILINE) for t in targets if t != ".venv")
        elif match := SCRIPT.match(line):
            check_script(*match.groups())
        else:
            assert words[0] in SHELL | {"d2tiny"}, line


MAKEFILE = (ROOT / "Makefile").read_text()


def check_script(pytest_of, script, rest):
    """A script exists and knows the options; what pytest is to run exists."""
    if pytest_of:
        assert all((ROOT / word).exists() for word in rest.split() if word.startswith("tests"))
        return
    source = (ROOT / script).read_text()
    if script.startswith("benchmarks"):
        source = "".join(path.read_text() for path in (ROOT / "benchmarks").glob("*.py"))
    if "train_main" in source:
        source += (ROOT / "d2tiny" / "cli" / "train.py").read_text()
    for option in re.findall(r"(?<!\S)--[a-z][a-z-]*", rest):
        assert f'"{option}"' in source, (script, option)


def test_all_python_is_run_by_a_test():
    with_code = {name for name, text in PAGES.items() if blocks("python", text)}
    assert with_code == {*RUN_HERE, *RUN_ELSEWHERE}
    tests = "".join(path.read_text() for path in (ROOT / "tests").rglob("test_*.py"))
    assert all(f"def {test}(" in tests for test in RUN_ELSEWHERE.values())


def test_examples_of_all_commands_are_shown():
    """Those of `--help`, which tests/cli runs."""
    shown = {" ".join(line.split()) for text in PAGES.values() for line in commands(text)}
    assert shown >= set(EXAMPLES.values())


@pytest.fixture(scope="module")
def world(tmp_path_factory, scenes):
    return write_world(tmp_path_factory.mktemp("world"), scenes)


@pytest.fixture
def there(world, monkeypatch):
    monkeypatch.chdir(world)
    yield world
    for logger in map(logging.getLogger, ("d2tiny", "detectron2", "fvcore")):
        for handler in [h for h in logger.handlers if hasattr(h, "_d2tiny_handler")]:
            logger.removeHandler(handler)
            handler.close()


def run_python(name):
    scope = {}
    for code in blocks("python", PAGES[name]):
        exec(compile(code, name, "exec"), scope)
    return scope


def run_commands(name):
    """Run the commands of a page in order, trainings for a single step."""
    for line in commands(PAGES[name]):
        program, *words = shlex.split(line)
        if program == "d2tiny":
            assert main([*words, *SHORTER.get(words[0], [])]) == 0, line


@pytest.mark.parametrize("name", RUN_HERE)
def test_python_of_pages(there, name):
    scope = run_python(name)
    assert "instances" in scope or scope["metrics"]["AP"] == pytest.approx(100)


@pytest.mark.slow
@pytest.mark.xdist_group("world")
def test_the_page_of_own_data_from_top_to_bottom(there):
    """From YOLO and VOC to a json, statistics, tiles, a training, a report and a map; then its Python."""
    run_commands("docs/your_data.md")
    names = ["voc_train.json", "clean.json", "stats/index.html", "augmentations.jpg", "tiles/instances.json"]
    names += ["unlabelled/images", "run/model_final.pth", "report/index.html", "found/ortho.geojson", "found/ortho.csv"]
    assert not [name for name in names if not (there / name).exists()]
    run_python("docs/your_data.md")
    assert (there / "ortho.gpkg").is_file()


@pytest.mark.xdist_group("world")
def test_the_first_page_from_top_to_bottom(there):
    run_commands("docs/start.md")
    assert (there / "found" / "picture.jpg").is_file()
    assert len(list((there / "output" / "found").glob("*.jpg"))) == 2
