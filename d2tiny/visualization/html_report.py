"""Self-contained HTML pages with tables, plots and pictures, which need no network."""

from __future__ import annotations

import base64
import html
import io
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

import cv2
import matplotlib
import numpy as np
from matplotlib.figure import Figure

from d2tiny.utils.files import write_text
from d2tiny.visualization.style import STYLE

__all__ = ["COLORS", "HtmlPage", "new_figure"]

# Distinguishable with colour blindness and on white (after Okabe and Ito).
COLORS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#666666", "#7a5195")


def new_figure(width: float = 4.8, height: float = 3.3) -> tuple[Figure, Any]:
    """Return a figure of the given size in inches and its axes in the style of the page, without a GUI backend."""
    figure = Figure(figsize=(width, height), layout="constrained")
    axes = figure.add_subplot()
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    axes.grid(color="#e2e7ec", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(labelsize=9, colors="#44505c")
    return figure, axes


class HtmlPage:
    """Builder of an HTML page; all texts are escaped."""

    def __init__(self, title: str, subtitle: str = "") -> None:
        """Start a page with a title and a subtitle."""
        self._title, self._subtitle = title, subtitle
        self._parts: list[str] = []
        self._open = False

    def cards(self, values: Mapping[str, str]) -> None:
        """Add a row of cards with large numbers: name → formatted value."""
        self._close()
        cards = "".join(
            f'<div class="card"><b>{html.escape(value)}</b><span>{html.escape(name)}</span></div>'
            for name, value in values.items()
        )
        self._parts.append(f'<div class="cards">{cards}</div>')

    def section(self, title: str, text: str = "") -> None:
        """Start a section with a heading and an optional paragraph."""
        self._close()
        self._open = True
        paragraph = f"<p>{html.escape(text)}</p>" if text else ""
        self._parts.append(f"<section><h2>{html.escape(title)}</h2>{paragraph}")

    def text(self, text: str) -> None:
        """Add a paragraph."""
        self._parts.append(f"<p>{html.escape(text)}</p>")

    def table(self, headers: Sequence[str], rows: Sequence[Sequence[object]], heat: Sequence[int] = ()) -> None:
        """Add a table.

        Args:
            headers: headers of the columns.
            rows: cells of each row; floats are shown with one decimal, NaN as a dash.
            heat: indices of the columns that are shaded by value, on a common scale.
        """
        cells = (row[i] for row in rows for i in heat)
        values = [float(cell) for cell in cells if isinstance(cell, int | float)]
        top = max([abs(v) for v in values if v == v], default=0.0) or 1.0
        lines = ["<tr>" + "".join(f"<th>{html.escape(h)}</th>" for h in headers) + "</tr>"]
        for row in rows:
            line = []
            for i, value in enumerate(row):
                style = ""
                if i in heat and isinstance(value, int | float) and value == value and value > 0:
                    style = f' style="background: rgba(213, 94, 0, {0.55 * float(value) / top:.2f})"'
                line.append(f"<td{style}>{html.escape(_cell(value))}</td>")
            lines.append("<tr>" + "".join(line) + "</tr>")
        self._parts.append("<table>" + "".join(lines) + "</table>")

    def figures(self, figures: Sequence[tuple[Figure, str]]) -> None:
        """Add plots side by side, each with its caption."""
        self._parts.append(
            '<div class="row">'
            + "".join(
                f"<figure>{_svg(figure, caption)}<figcaption>{html.escape(caption)}</figcaption></figure>"
                for figure, caption in figures
            )
            + "</div>"
        )

    def pictures(self, pictures: Sequence[tuple[np.ndarray, str]]) -> None:
        """Add RGB pictures in a grid, each with its caption."""
        self._parts.append(
            '<div class="tiles">'
            + "".join(
                f'<figure><img loading="lazy" alt="{html.escape(caption)}" src="{_jpeg(picture)}">'
                f"<figcaption>{html.escape(caption)}</figcaption></figure>"
                for picture, caption in pictures
            )
            + "</div>"
        )

    def frame(self, link: str, title: str) -> None:
        """Show another page inside this one, with a link that opens it alone.

        Args:
            link: relative to the folder of this page.
            title: what it is.
        """
        target, text = html.escape(quote(link)), html.escape(title)
        self._parts.append(
            f'<p><a href="{target}" target="_blank">{text}</a></p>'
            f'<iframe loading="lazy" src="{target}" title="{text}"></iframe>'
        )

    def commands(self, entries: Mapping[str, str]) -> None:
        """Add commands to copy, each under what it does: text → command."""
        for text, command in entries.items():
            self._parts.append(f"<p>{html.escape(text)}</p><pre>{html.escape(command)}</pre>")

    def legend(self, entries: Mapping[str, str]) -> None:
        """Add a legend: text → CSS colour."""
        marks = "".join(f'<i style="border-color: {c}"></i>{html.escape(text)}' for text, c in entries.items())
        self._parts.append(f'<p class="legend">{marks}</p>')

    def _close(self) -> None:
        if self._open:
            self._parts.append("</section>")
            self._open = False

    def render(self) -> str:
        """Return the page as HTML."""
        self._close()
        title, subtitle = html.escape(self._title), html.escape(self._subtitle)
        return (
            f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{title}</title>'
            f'<meta name="viewport" content="width=device-width, initial-scale=1"><style>{STYLE}</style></head>'
            f"<body><header><h1>{title}</h1><p>{subtitle}</p></header><main>{''.join(self._parts)}</main></body></html>\n"
        )

    def write(self, path: Path) -> None:
        """Write the page atomically; missing folders are created."""
        path.parent.mkdir(parents=True, exist_ok=True)
        write_text(path, self.render())


def _cell(value: object) -> str:
    if isinstance(value, float):
        return "–" if value != value else f"{value:.1f}"
    return f"{value:,}" if isinstance(value, int) else str(value)


def _svg(figure: Figure, caption: str) -> str:
    """Return a plot as inline SVG with reproducible ids."""
    buffer = io.StringIO()
    settings = {"svg.hashsalt": caption, "svg.fonttype": "none", "font.family": "sans-serif"}
    with matplotlib.rc_context(settings), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about glyphs missing in matplotlib's fonts; the browser renders the text
        figure.savefig(buffer, format="svg", metadata={"Date": None}, transparent=True)
    text = buffer.getvalue()
    return text[text.index("<svg") :]


def _jpeg(picture: np.ndarray) -> str:
    _, data = cv2.imencode(".jpg", cv2.cvtColor(picture, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, 88])
    return "data:image/jpeg;base64," + base64.b64encode(data.tobytes()).decode()
