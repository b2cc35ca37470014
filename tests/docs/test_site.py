"""The site: what its hooks make of files. `make docs` builds it, strictly."""

from __future__ import annotations

import base64
import importlib
import json
import runpy
from fnmatch import fnmatch
from types import SimpleNamespace

import pytest
import yaml

from d2tiny.utils.errors import D2TinyError
from tests.helpers import ROOT
from tests.helpers.docs import pages

SITE = ROOT / "tools" / "site"
RUN = runpy.run_path(str(ROOT / "tools" / "run_notebook.py"))
NOTEBOOKS = sorted((ROOT / "docs" / "notebooks").glob("*.ipynb"))


def module(name):
    """A module of the hooks."""
    return SimpleNamespace(**runpy.run_path(str(SITE / f"{name}.py")))


LINKS, REFERENCE = module("links"), module("reference_pages")


@pytest.mark.slow
def test_every_public_name_is_on_a_page_of_the_reference():
    """Compared with the modules themselves: what each has in ``__all__`` has its place where it is defined."""
    shown = {name for names in REFERENCE.anchors(ROOT).values() for name in names}
    packages = REFERENCE.packages(ROOT)
    pages_text = REFERENCE.reference_pages(ROOT)
    names = REFERENCE.public_names(ROOT)
    assert len(names) > 250
    for imported, public in names.items():
        own = importlib.import_module(imported)
        assert sorted(getattr(own, "__all__", [])) == sorted(public), imported
        for name, full in public.items():
            home, _, last = full.rpartition(".")
            thing = getattr(own, name)
            assert full in shown or full in packages or full in names, full
            assert thing is getattr(importlib.import_module(home), last), full
    assert len(shown) > 900
    assert set(pages_text) == {f"reference/{name}.md" for name in (*packages, "index")}
    assert all(f'"{name.rpartition(".")[2]}"' in "".join(pages_text.values()) for name in shown)


def test_links_hold_in_the_repository_and_in_the_site():
    page = ROOT / "docs" / "papers" / "rfla.md"
    text = "[a](../../README.md) [b](../../results/README.md#findings) [c](../../configs/quick/rcnn.py) [d](nwd.md)\n"
    text += "[e](https://x.org/y.md) [f](#g) [h](../../results/hituav/table.md) [n](../notebooks/first_minutes.ipynb)\n"
    text += "```\n[code](../../README.md)\n```\n"
    moved = LINKS.moved_links(text, page, "papers/rfla.md")
    assert (
        moved.splitlines()[0]
        == "[a](../index.md) [b](../results.md#findings) [c](../files/configs/quick/rcnn.py) [d](nwd.md)"
    )
    assert (
        moved.splitlines()[1]
        == "[e](https://x.org/y.md) [f](#g) [h](../results/hituav.md) [n](../notebooks/first_minutes.md)"
    )
    assert "[code](../../README.md)" in moved
    assert {path.name for path in LINKS.linked_files(text, page)} >= {"README.md", "rcnn.py", "nwd.md", "table.md"}
    outside = LINKS.moved_links("[x](docs/scenes.md) ![y](docs/images/demo.jpg)", ROOT / "MODEL_ZOO.md", "zoo.md")
    assert outside == "[x](scenes.md) ![y](images/demo.jpg)"


def test_every_page_is_in_the_navigation():
    """Tables of results and packages are added by the hooks."""
    config = yaml.safe_load((ROOT / "mkdocs.yml").read_text())
    found = set()

    def collect(node):
        if isinstance(node, str):
            found.add(node)
        elif isinstance(node, dict):
            collect(list(node.values()))
        elif node:
            [collect(part) for part in node]

    collect(config["nav"])
    assert {LINKS.page_of(path) for path in pages()} <= found
    assert not config["theme"]["font"]
    for file in (*config["extra_css"], *config["extra_javascript"], config["theme"]["favicon"]):
        assert (ROOT / "docs" / file).is_file()


def test_a_notebook_becomes_a_page(tmp_path):
    picture = base64.b64encode(b"jpeg").decode()
    cells = [
        {"cell_type": "markdown", "source": ["# Title\n", "text"]},
        {
            "cell_type": "code",
            "source": ["print(1)"],
            "outputs": [
                {"output_type": "stream", "name": "stdout", "text": ["1\n"]},
                {"output_type": "execute_result", "data": {"image/jpeg": picture, "text/plain": ["<Image>"]}},
            ],
        },
    ]
    path = tmp_path / "some.ipynb"
    path.write_text(json.dumps({"cells": cells}))
    text, pictures = module("notebook_page").notebook_page(path)
    assert text.startswith(
        "# Title\ntext\n\n```python\nprint(1)\n```\n\n```text\n1\n```\n\n![What this cell draws](some_1_1.jpeg)"
    )
    assert pictures == {"some_1_1.jpeg": b"jpeg"}


def test_cells_run_in_one_scope_and_show_what_jupyter_would():
    class Picture:
        def _repr_png_(self):
            return b"png"

    def cell(source):
        return {"cell_type": "code", "source": source.splitlines(keepends=True), "outputs": ["old"]}

    sources = ["x = 2\nprint('a')\nx * 3", "Picture()", "x = None\nx"]
    notebook = {"cells": [{"cell_type": "markdown", "source": ["y"]}, *map(cell, sources)]}
    done = RUN["run_notebook"](notebook, {"Picture": Picture})["cells"]
    first, second, third = (part["outputs"] for part in done[1:])
    assert first[0]["text"] == ["a\n"]
    assert first[1]["data"] == {"text/plain": ["6"]}
    assert second[0]["data"] == {"image/png": base64.b64encode(b"png").decode()}
    assert third == []
    assert notebook["cells"][1]["outputs"] == ["old"]
    with pytest.raises(D2TinyError, match="Cell 2 failed: ZeroDivisionError"):
        RUN["run_notebook"]({"cells": [cell("1"), cell("1 / 0")]}, {})


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebooks_run_from_top_to_bottom(path, tmp_path, monkeypatch):
    """With two steps of training; with more, the detector gets better (stored outputs)."""
    import logging

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("D2TINY_NOTEBOOK_ITERATIONS", "2")
    notebook, scope = json.loads(path.read_text()), {"__name__": "__main__"}
    try:
        done = RUN["run_notebook"](notebook, scope)
    finally:
        logging.disable(logging.NOTSET)
    assert scope["before"].keys() == scope["after"].keys()
    assert (tmp_path / "run" / "model_final.pth").is_file()
    for stored, now in zip(notebook["cells"], done["cells"], strict=True):
        if stored["cell_type"] == "code":
            assert [output["output_type"] for output in stored["outputs"]] == [o["output_type"] for o in now["outputs"]]
    table = "".join(text for c in notebook["cells"] for o in c.get("outputs", ()) for text in o.get("text", ()))
    before, after = map(float, next(line for line in table.splitlines() if line.startswith("AP ")).split()[1:])
    assert after > before + 3


# Every picture of the pages, and the script that draws it.
DRAWN = {
    "architecture": "draw_architecture",
    "assigner_*": "draw_assigners",
    "demo": "draw_pages",
    "efpnbs_masks": "draw_masks",
    "failures_*": "draw_failures",
    "predict": "draw_pages",
    "report": "draw_pages",
    "scalebridge_*": "draw_scalebridge",
    "scenes_map": "draw_pages",
    "scenes_merging": "draw_scenes",
    "scenes_page": "draw_pages",
}


def test_every_picture_has_a_script_and_a_page():
    shown = "".join(path.read_text() for path in pages())
    files = sorted((ROOT / "docs" / "images").iterdir())
    for file in files:
        assert sum(fnmatch(file.stem, pattern) for pattern in DRAWN) == 1, file.name
        assert f"images/{file.name})" in shown
        assert file.stat().st_size < 700_000
    for pattern, script in DRAWN.items():
        assert any(fnmatch(file.stem, pattern) for file in files), pattern
        assert (ROOT / "tools" / f"{script}.py").is_file()
