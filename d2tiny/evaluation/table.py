"""Metrics as text tables."""

from __future__ import annotations

import math
from collections.abc import Mapping

from tabulate import tabulate

__all__ = ["CLASS_PREFIXES", "format_table"]

# Columns of the class table: heading, prefix of the metric.
_CLASS_COLUMNS = {"AP": "AP-", "AP50": "AP50-", "score at lowest LRP": "threshold-"}
CLASS_PREFIXES = tuple(_CLASS_COLUMNS.values())


def format_table(results: Mapping[str, float]) -> str:
    """Return two text tables: the metrics, and one row for each class."""
    main = {k: v for k, v in results.items() if not k.startswith(CLASS_PREFIXES)}

    def cell(value: float, digits: int = 1) -> str:
        return "-" if math.isnan(value) else f"{value:.{digits}f}"

    def table(rows: list[list[str]], headers: list[str]) -> str:
        return tabulate(rows, headers=headers, tablefmt="pipe", stralign="center", disable_numparse=True)

    # Precision, recall and LRP in lines of their own, so that the table fits a terminal.
    parts = [[k for k in main if k.startswith("AP")], [k for k in main if not k.startswith("AP")]]
    text = "\n\n".join(table([[cell(main[k]) for k in part]], part) for part in parts if part)
    classes = [k.removeprefix("AP-") for k in results if k.startswith("AP-")]
    if len(classes) < 2 and not any(k.startswith("threshold-") for k in results):
        return text
    columns = {h: p for h, p in _CLASS_COLUMNS.items() if p + classes[0] in results}
    rows = [[c, *(cell(results[p + c], 2 if p == "threshold-" else 1) for p in columns.values())] for c in classes]
    return f"{text}\n\n{table(rows, ['class', *columns])}"
