"""Code blocks and commands of the documentation's pages."""

from __future__ import annotations

import re

from tests.helpers import ROOT

README = (ROOT / "README.md").read_text()


def pages():
    """Return the pages of the documentation, in docs/ and outside of it."""
    outside = ("README.md", "CONTRIBUTING.md", "SECURITY.md", "MODEL_ZOO.md", "datasets/README.md")
    results = sorted((ROOT / "results").glob("*.md"))
    return [*(ROOT / name for name in outside), *results, *sorted((ROOT / "docs").rglob("*.md"))]


def blocks(language, text=README):
    """Return the fenced code blocks of a language; the empty string selects those without one."""
    found = re.findall(r"^```(\w*)\n(.*?)^```$", text, flags=re.DOTALL | re.MULTILINE)
    return [body for name, body in found if name == language]


def commands(page=README):
    """Return the shell commands of a page, one line each, without comments."""
    text = "\n".join(blocks("", page)).replace("\\\n", " ")
    return [line.split("  #")[0].strip() for line in text.splitlines() if line.strip()]
