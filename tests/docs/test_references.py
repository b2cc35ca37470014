"""References resolve: links and anchors, files and configs in backticks, pages that docstrings point to."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from d2tiny import model_zoo

ROOT = Path(__file__).resolve().parents[2]
FOLDERS = ("d2tiny", "configs", "tools", "benchmarks", "tests", "docs", "datasets", "results", ".github")
ENDINGS = {".py", ".md", ".yml", ".yaml", ".toml", ".cff"}
ABSENT = re.compile(r"\bSPEC\b|\bDESIGN\b|§")
PLACEHOLDER = re.compile(r"[…<>$]|\.\.\.|NAME|FILE|FOLDER|\bmy_")

FILES = sorted(
    path
    for path in [*ROOT.iterdir(), *(p for folder in FOLDERS for p in (ROOT / folder).rglob("*"))]
    if path.is_file() and (path.suffix in ENDINGS or path.name in ("Makefile", "NOTICE")) and path != Path(__file__)
)
PAGES = [path for path in FILES if path.suffix == ".md"]


def name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def without_code(text: str) -> str:
    return re.sub(r"^```.*?^```$", "", text, flags=re.DOTALL | re.MULTILINE)


@cache
def anchors(page: Path) -> set[str]:
    """The anchors that GitHub gives the headings of a page."""
    found: set[str] = set()
    for heading in re.findall(r"^#+ +(.+?)\s*$", without_code(page.read_text()), flags=re.MULTILINE):
        plain = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).lower()
        slug = re.sub(r"[^\w\- ]", "", plain).replace(" ", "-")
        copies = sum(bool(re.fullmatch(rf"{re.escape(slug)}(-\d+)?", other)) for other in found)
        found.add(f"{slug}-{copies}" if copies else slug)
    return found


def missing(page: Path, anchor: str) -> str:
    """What is wrong with a reference to a page and an anchor of it, or nothing."""
    if not page.exists():
        return "no such file"
    if anchor and page.suffix == ".md" and anchor not in anchors(page):
        return f"no heading '{anchor}'; there are {sorted(anchors(page))}"
    return ""


def expanded(pattern: str) -> Iterator[str]:
    """All that a pattern with {a,b} means."""
    braces = re.search(r"\{([^{}]*)\}", pattern)
    if braces is None:
        yield pattern
        return
    for part in braces[1].split(","):
        yield from expanded(pattern[: braces.start()] + part + pattern[braces.end() :])


def wrong_links(page: Path) -> list[str]:
    """Relative links of a page that lead nowhere."""
    wrong = []
    for target in re.findall(r"\]\(([^)\s]+)\)", without_code(page.read_text())):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = target.partition("#")
        if reason := missing(page.parent / path if path else page, anchor):
            wrong.append(f"{target}: {reason}")
    return wrong


def wrong_mentions(text: str) -> list[str]:
    """Pages of docs/, with or without an anchor, that do not exist."""
    wrong = []
    for path, anchor in re.findall(r"(?<![\w/.-])(docs/[\w/-]+\.md)(?:#([\w-]+))?", text):
        if reason := missing(ROOT / path, anchor):
            wrong.append(f"{path}#{anchor}: {reason}")
    return wrong


def wrong_paths(text: str) -> list[str]:
    """Paths of the repository in backticks that match no file."""
    wrong = []
    for quoted in re.findall(r"`((?:d2tiny|configs|tools|tests|benchmarks|docs)/[^`\s]*)[^`]*`", text):
        if PLACEHOLDER.search(quoted):
            continue
        path = quoted.partition("#")[0].rstrip("/")
        wrong += [part for part in expanded(path) if not any(ROOT.glob(part))]
    return wrong


def wrong_configs(text: str) -> list[str]:
    """Configs of the zoo in backticks that do not exist."""
    datasets = "|".join(sorted({config.split("/")[0] for config in model_zoo.list_configs()} - {"yaml"}))
    wrong = []
    for quoted in re.findall(rf"`((?:{datasets})/[\w*{{}},]+)`", text):
        wrong += [part for part in expanded(quoted) if not model_zoo.list_configs(part)]
    return wrong


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_page(page):
    text = page.read_text()
    assert not wrong_links(page)
    assert not wrong_paths(without_code(text))
    assert not wrong_configs(text) or page.parent.name == "datasets"


def test_mentions_of_pages():
    wrong = {name(path): found for path in FILES if (found := wrong_mentions(path.read_text()))}
    assert not wrong


def test_paths_in_docstrings_and_comments():
    wrong = {name(p): found for p in FILES if p.suffix == ".py" and (found := wrong_paths(p.read_text()))}
    assert not wrong


def test_nothing_points_to_a_document_that_is_absent():
    assert not [name(path) for path in FILES if ABSENT.search(path.read_text())]


def test_the_checks_find_what_is_wrong(tmp_path):
    page = tmp_path / "page.md"
    links = "[x](page.md#twice-1) [y](#a-b-c_d-e) [z](no.md) [w](#no) [v](https://example.org/no.md)"
    page.write_text(f"# A *b*, `c_d`: e\n\n## Twice\n\n## Twice\n\n{links}\n")
    assert anchors(page) == {"a-b-c_d-e", "twice", "twice-1"}
    assert [line.split(":")[0] for line in wrong_links(page)] == ["no.md", "#no"]
    mentions = wrong_mentions("docs/no.md, docs/papers/rfla.md#no, docs/papers/rfla.md#priors, https://x/docs/no.md")
    assert [line.split(":")[0] for line in mentions] == ["docs/no.md#", "docs/papers/rfla.md#no"]
    assert wrong_paths("`d2tiny/{ops,no}/boxes.py` `tests/*.py` `tools/NAME.py` `tools/no.py --x`") == [
        "d2tiny/no/boxes.py",
        "tools/no.py",
    ]
    assert wrong_configs("`quick/dino_r18{,_no}` `quick/*`") == ["quick/dino_r18_no"]
