"""The model zoo as Markdown (MODEL_ZOO.md) and as a table in HTML that can be filtered (the page of the site)."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from html import escape

from d2tiny.analysis.zoo import METRICS, ZooRow, family_of
from d2tiny.config.files import config_title
from d2tiny.utils.published import PublishedWeights, by_config

__all__ = ["PROPOSALS", "SIDE", "html_table", "markdown", "refreshed"]

PROPOSALS = 1000
SIDE = 800
EVIDENCE = ("AP", "AP50", "APvt")
SHOWN = ("AP", "AP50", "APvt", "APt", "APs")
_NOTES = f"""*Measured* is the mean over the runs and half their range, on the validation images of the config's dataset
(`quick` trains and tests on `aerial`); how they were trained and what they show is in [results](results/README.md).
*Published* is what the named table says: a target, not a result of ours; {" / ".join(METRICS)}. GMAC are
multiply-adds of one image of {SIDE} px, which `x2` enlarges to twice its sides: backbone, neck, heads, and box heads
for {PROPOSALS:,} proposals; deformable convolutions count as plain ones. Of transformers the samples of
deformable attention are not counted; they have the most queries, and a sparse encoder updates all
tokens, its worst case.
"""
_HEAD = f"""# Model zoo

Made by `python tools/make_model_zoo.py`; do not edit. `d2tiny zoo` prints the same rows in the same order: first what
was measured here, then what others published, then configs that nobody has measured yet. The site has this table with
filters. Weights that are ready to use link to their cards; [all of them](docs/models/README.md).

{_NOTES}"""


def markdown(rows: Sequence[ZooRow], weights: Sequence[PublishedWeights]) -> str:
    """Return the content of MODEL_ZOO.md.

    Args:
        rows: rows in the order of the zoo.
        weights: those that come with d2tiny; measured rows link to their cards.
    """
    offered = by_config(weights)
    measured = [row for row in rows if row.measured]
    targets = [row for row in rows if row.target and not row.measured]
    rest = [row for row in rows if not row.has_figures]
    return "\n".join(
        [
            _HEAD,
            "## Measured here\n",
            *_table(
                ("config", "weights", "iterations", "runs", *SHOWN, "published", "params M", "GMAC"),
                (_cells(row, offered.get(row.name, ())) for row in measured),
            ),
            "\n## Published by others, not trained here\n",
            *_table(("config", "published", "table", "params M", "GMAC"), map(_target_cells, targets)),
            "\n## Without figures\n",
            "<details>",
            f"<summary>{len(rest)} configs that neither we nor a publication have measured</summary>\n",
            *_table(("config", "what", "params M", "GMAC"), map(_plain_cells, rest)),
            "\n</details>\n",
        ]
    )


def refreshed(text: str, rows: Sequence[ZooRow]) -> str:
    """Return a page with current figures in the rows of its tables that begin with the name of a config.

    Such a row is ``| `hituav/name` | what | AP | AP50 | APvt |``. Of a config's trainings that counts whose length most
    rows of the same table have, so that they are comparable; then the longest.
    """
    known: dict[str, dict[int, ZooRow]] = {}
    for row in rows:
        if row.measured:
            known.setdefault(row.name, {})[row.iterations] = row

    def table(block: re.Match[str]) -> str:
        names = re.findall(r"^\| `([\w/]+)` ", block[0], flags=re.MULTILINE)
        common = Counter(length for name in names for length in known.get(name, ()))

        def line(match: re.Match[str]) -> str:
            trainings = known.get(match[2])
            if not trainings:
                return match[0]
            row = trainings[max(trainings, key=lambda length: (common[length], length))]
            return f"{match[1]} {' | '.join(map(row.measured_text, EVIDENCE))} |"

        return re.sub(r"^(\| `([\w/]+)` \| [^|]+ \|)(?: [^|]+ \|){3}$", line, block[0], flags=re.MULTILINE)

    return re.sub(r"(?:^\| .*\n?)+", table, text, flags=re.MULTILINE)


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    lines = (head, ["---"] * len(head), *rows)
    return [f"| {' | '.join(cells)} |" for cells in lines]


def _link(row: ZooRow) -> str:
    return f"[{row.name}](configs/{row.file})" + f" after `{row.start}`" * bool(row.start)


def _size(row: ZooRow) -> list[str]:
    return ["–" if value is None else f"{value:g}" for value in (row.params_m, row.gmac)]


def _cells(row: ZooRow, weights: Sequence[PublishedWeights]) -> list[str]:
    cards = ", ".join(f"[{entry.name}]({entry.card})" for entry in weights) or "–"
    figures = [row.measured_text(metric) for metric in SHOWN]
    return [_link(row), cards, str(row.iterations), str(row.runs), *figures, row.target_text(), *_size(row)]


def _target_cells(row: ZooRow) -> list[str]:
    return [_link(row), row.target_text(), row.source, *_size(row)]


def _plain_cells(row: ZooRow) -> list[str]:
    return [_link(row), config_title(row.name), *_size(row)]


def html_table(
    rows: Sequence[ZooRow],
    link: Callable[[ZooRow], str],
    weights: Sequence[PublishedWeights],
    card: Callable[[PublishedWeights], str],
) -> str:
    """Return the rows as an HTML table with form fields, which ``docs/assets/zoo.js`` filters.

    Without JavaScript the whole table is there, and the fields are hidden.

    Args:
        rows: rows in the order of the zoo.
        link: address of a row's config file.
        weights: those that come with d2tiny.
        card: address of the card of weights.
    """
    offered = {
        name: ", ".join(f'<a href="{escape(card(entry))}">{escape(entry.name)}</a>' for entry in entries)
        for name, entries in by_config(weights).items()
    }
    datasets = dict.fromkeys(row.dataset for row in rows)
    families = dict.fromkeys(sorted(family_of(row.name) for row in rows))
    columns = (
        "config",
        "weights",
        "AP",
        "AP50",
        "AP<sub>vt</sub>",
        "AP<sub>t</sub>",
        "iterations",
        "runs",
        "published AP",
        "published AP50",
        "published in",
        "params M",
        "GMAC",
    )
    return "\n".join(
        [
            '<form class="zoo-form" hidden>',
            _choice("family", families),
            _choice("dataset", datasets),
            '<label>figures <select name="figures"><option value="any">measured or published</option>'
            '<option value="measured">measured here</option><option value="published">published</option>'
            '<option value="all">all configs</option></select></label>',
            '<label>GMAC up to <input name="gmac" type="number" min="0" step="any" placeholder="any"></label>',
            '<label>name <input name="text" type="search" placeholder="rfla"></label>',
            '<output name="count"></output>',
            "</form>",
            '<div class="zoo-scroll"><table class="zoo">',
            f"<thead><tr>{''.join(f'<th>{name}</th>' for name in columns)}</tr></thead>",
            "<tbody>",
            *(_html_row(row, link(row), offered.get(row.name, "–") if row.measured else "–") for row in rows),
            "</tbody></table></div>",
        ]
    )


def _choice(name: str, values: Iterable[str]) -> str:
    options = "".join(f"<option>{escape(value)}</option>" for value in values)
    return f'<label>{name} <select name="{name}"><option value="">any</option>{options}</select></label>'


def _html_row(row: ZooRow, address: str, weights: str) -> str:
    figures = "measured" if row.measured else "published" if row.target else "none"
    facts = {"family": family_of(row.name), "dataset": row.dataset, "figures": figures, "gmac": row.gmac or ""}
    facts["published"] = "yes" if row.target else ""
    data = " ".join(f'data-{key}="{escape(str(value))}"' for key, value in facts.items())
    after = f"<br><small>after {escape(row.start)}</small>" if row.start else ""
    name = f'<a href="{escape(address)}" title="{escape(config_title(row.name))}">{escape(row.name)}</a>{after}'
    cells = [weights, *(row.measured_text(metric) for metric in SHOWN[:4])]
    cells += [str(row.iterations or "–"), str(row.runs or "–"), row.target_text(["AP"]), row.target_text(["AP50"])]
    text = "".join(f"<td>{cell}</td>" for cell in cells)
    text += f'<td class="source">{escape(row.source) or "–"}</td>' + "".join(f"<td>{cell}</td>" for cell in _size(row))
    return f"<tr {data}><td>{name}</td>{text}</tr>"
