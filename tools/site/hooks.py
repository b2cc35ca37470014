"""Hooks of MkDocs: pages that lie outside of docs/, pages that are made, links that hold on a code host and here.

``mkdocs.yml`` names this file. A link that leaves docs/ leads to the page of that file where there is one, else to a
copy of the file below ``files/``; a build in which a public name has no place in the reference fails.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

from links import DOCS, OUTSIDE, ROOT, linked_files, moved_links, page_of, place_of
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page
from notebook_page import notebook_page
from pymdownx.slugs import slugify
from reference_pages import anchors, commands_page, packages, reference_pages

from d2tiny.analysis.zoo import ZooRow, read_rows
from d2tiny.analysis.zoo_table import html_table
from d2tiny.utils.published import PublishedWeights, read_manifest, shipped_folder

if TYPE_CHECKING:
    from mkdocs.config.defaults import MkDocsConfig


FETCHED = re.compile(
    r"""<(?:script|img|iframe)[^>]* src=["']?((?:https?:)?//[^"'> ]+)|<link rel=["']?stylesheet[^>]*(//[^"'> ]+)"""
)


def zoo_page(text: str) -> str:
    """Return the page of the zoo: the introduction of MODEL_ZOO.md, and its rows as a table that can be filtered."""

    def address(row: ZooRow) -> str:
        return f"files/configs/{row.file}"

    def card(weights: PublishedWeights) -> str:
        return f"models/{weights.name}.html"

    head = text.split("## Measured here")[0].replace("The site has this table with\nfilters. ", "")
    head = head.replace("Made by `python tools/make_model_zoo.py`; do not edit. ", "")
    table = html_table(read_rows(), address, read_manifest(shipped_folder()).weights, card)
    return f"---\nhide: [navigation, toc]\n---\n\n{head}\n{table}\n"


def on_config(config: MkDocsConfig) -> None:
    """Put the pages of packages and tables behind theirs, and let anchors be those of a code host."""
    config.mdx_configs["toc"]["slugify"] = slugify(case="lower")
    for entry in config.nav or []:
        if "Reference" in entry:
            entry["Reference"] += [{"Commands": "reference/commands.md"}]
            entry["Reference"] += [{name: f"reference/{name}.md"} for name in packages(ROOT)]
        if "Results" in entry:
            entry["Results"] += [{f"Table: {path.parent.name}": page_of(path)} for path in _tables()]


def _tables() -> list[Path]:
    return sorted((ROOT / "results").glob("*/table.md"))


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages from outside and those that are made, and copies of the files that pages link to."""
    outside = [ROOT / name for name in OUTSIDE if name != "README.md"]
    outside += _tables()
    made = {page_of(path): moved_links(path.read_text("utf-8"), path, page_of(path)) for path in outside}
    made["zoo.md"] = zoo_page(made["zoo.md"])
    for path in _tables():
        made[page_of(path)] = f"# Table: {path.parent.name}\n\n{made[page_of(path)]}"
    made |= reference_pages(ROOT)
    made["reference/commands.md"] = commands_page()
    notebooks = sorted((DOCS / "notebooks").glob("*.ipynb"))
    for notebook in notebooks:
        text, pictures = notebook_page(notebook)
        made[page_of(notebook)] = moved_links(text, notebook, page_of(notebook))
        for name, content in pictures.items():
            files.append(File.generated(config, f"notebooks/{name}", content=content))
    for place, text in made.items():
        files.append(File.generated(config, place, content=text))
    _add_copies(files, config, outside)
    return files


def _add_copies(files: Files, config: MkDocsConfig, outside: list[Path]) -> None:
    pages = [*outside, *DOCS.rglob("*.md")]
    wanted = set().union(*(linked_files(path.read_text("utf-8"), path) for path in pages))
    wanted |= {ROOT / "configs" / row.file for row in read_rows() if row.file}
    for path in sorted(wanted):
        if place_of(path).startswith("files/"):
            files.append(File.generated(config, place_of(path), abs_src_path=str(path)))


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Let the links of pages in docs/ hold."""
    source = DOCS / page.file.src_uri
    if page.file.src_uri == "index.md":  # the reference is in the site only
        markdown = markdown.replace("[Reference](architecture.md#subpackages)", "[Reference](reference/index.md)")
    return moved_links(markdown, source, page.file.src_uri) if source.is_file() else markdown


def on_page_content(html: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Keep figures and spread on one line, turn roles of docstrings into code, and pages that they name into links."""
    html = html.replace(" ± ", "\u00a0±\u00a0")
    if not page.file.src_uri.startswith("reference/"):
        return html
    html = re.sub(r":(?:mod|class|func|data|meth|attr|exc):<code>~?([^<]+)</code>", r"<code>\1</code>", html)

    def link(match: re.Match[str]) -> str:
        place = place_of(ROOT / match[1]).removesuffix(".md") + ".html"
        place = place.replace("README.html", "index.html")
        return f'<a href="../{place}{match[2] or ""}">{match[0]}</a>'

    return re.sub(r"(?<![\w/])(docs/[\w/]+\.md)(#[\w-]+)?", link, html)


def on_post_build(config: MkDocsConfig) -> None:
    """Refuse a reference without a place for every public name, and pages that need a network."""
    missing = []
    for package, names in anchors(ROOT).items():
        html = (Path(config.site_dir) / "reference" / f"{package}.html").read_text("utf-8")
        missing += [name for name in names if f'id="{name}"' not in html]
    if missing:
        raise PluginError(f"The reference lacks {', '.join(missing)}")
    for path in Path(config.site_dir).rglob("*.html"):
        if fetched := FETCHED.findall(path.read_text("utf-8")):
            raise PluginError(f"{path} fetches {fetched[0]} from a network")
