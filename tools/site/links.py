"""Where the files of the repository are in the site, and links that hold in both."""

from __future__ import annotations

import os
import re
from pathlib import Path

__all__ = ["DOCS", "OUTSIDE", "ROOT", "linked_files", "moved_links", "page_of", "place_of"]

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
# Files outside of docs/ that are pages here.
OUTSIDE = {
    "README.md": "index.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
    "SECURITY.md": "security.md",
    "MODEL_ZOO.md": "zoo.md",
    "datasets/README.md": "datasets.md",
    "results/README.md": "results.md",
    "results/pretrained.md": "results/pretrained.md",
    "results/scratch.md": "results/scratch.md",
    "results/costs.md": "results/costs.md",
}
ANYWHERE = re.compile(r"^```.*?^```$|(\]\()([^)\s]+)(\))", flags=re.DOTALL | re.MULTILINE)


def page_of(source: Path) -> str:
    """Return where a Markdown file or a notebook of the repository is in the site; empty where it is not."""
    if source.is_relative_to(DOCS):
        return source.relative_to(DOCS).with_suffix(".md" if source.suffix == ".ipynb" else source.suffix).as_posix()
    name = source.relative_to(ROOT).as_posix()
    table = re.fullmatch(r"results/(\w+)/table\.md", name)
    return f"results/{table[1]}.md" if table else OUTSIDE.get(name, "")


def place_of(source: Path) -> str:
    """Return where any file of the repository is in the site: a page, or a copy of the file."""
    inside = source.is_relative_to(DOCS)
    return page_of(source) if inside or (source.suffix == ".md" and page_of(source)) else f"files/{_name(source)}"


def _name(source: Path) -> str:
    return source.relative_to(ROOT).as_posix()


def _target(link: str, source: Path) -> Path | None:
    """Return the file of the repository that a relative link of a file leads to, None for all other links."""
    path = link.partition("#")[0]
    if not path or re.match(r"[a-z]+:", path):
        return None
    target = Path(os.path.normpath(source.parent / path))
    if target.is_dir():
        target = target / "README.md"
    return target if target.is_file() and target.is_relative_to(ROOT) else None


def linked_files(text: str, source: Path) -> set[Path]:
    """Return the files of the repository that the links of a page lead to."""
    links = (match[2] for match in ANYWHERE.finditer(text) if match[2])
    return {target for link in links if (target := _target(link, source))}


def moved_links(text: str, source: Path, page: str) -> str:
    """Return the text of a file with links that hold from its page in the site."""

    def moved(match: re.Match[str]) -> str:
        target = _target(match[2], source) if match[2] else None
        if target is None:
            return match[0]
        anchor = match[2].partition("#")[2]
        place = os.path.relpath(place_of(target), Path(page).parent or ".")
        return f"{match[1]}{place}{'#' * bool(anchor)}{anchor}{match[3]}"

    return ANYWHERE.sub(moved, text)
