"""``d2tiny zoo``: list the configs, or the published weights."""

from __future__ import annotations

import argparse
import fnmatch
from collections.abc import Callable
from typing import TYPE_CHECKING

from d2tiny.cli.common import add_weights_place_option
from d2tiny.utils.errors import ConfigError, did_you_mean

if TYPE_CHECKING:
    from d2tiny.utils.published import PublishedWeights

__all__ = ["EXAMPLE", "add_arguments", "run"]

EXAMPLE = "d2tiny zoo 'quick/*'"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    parser.add_argument(
        "pattern", nargs="?", default="*", metavar="GLOB", help="names to list, such as 'aitod/*', or a part of them"
    )
    parser.add_argument(
        "--published", action="store_true", help="list published weights: size, licence, data, classes, figures"
    )
    parser.add_argument("--all", action="store_true", help="list configs too that nobody has measured yet")
    add_weights_place_option(parser)


def run(args: argparse.Namespace) -> int:
    """Print what is asked for."""
    from d2tiny.utils.published import known_weights

    known = known_weights(args.weights_from)
    if args.published:
        _list_weights(known, args.pattern, args.weights_from)
    else:
        _list_configs(known, args.pattern, args.all)
    return 0


def _list_configs(published: list[PublishedWeights], given: str, everything: bool) -> None:
    """Print the configs in the order of MODEL_ZOO.md with its figures, weights and titles."""
    from tabulate import tabulate

    from d2tiny.analysis.zoo import ZooRow, read_rows
    from d2tiny.config.files import config_title
    from d2tiny.utils.published import by_config

    rows = read_rows()
    pattern = given.removeprefix("configs/")
    fitting = [row for row in rows if fnmatch.fnmatch(row.name, pattern)]
    fitting = fitting or [row for row in rows if pattern in row.name]
    if not fitting:
        raise ConfigError(f"No config matches '{given}'. {did_you_mean(pattern, {row.name for row in rows})}")
    shown = fitting if everything or given != "*" else [row for row in fitting if row.has_figures]
    offered = by_config(published)
    cells: dict[str, Callable[[ZooRow], str]] = {
        "config": lambda row: row.name + f" after {row.start}" * bool(row.start),
        "weights": lambda row: ", ".join(entry.name for entry in offered.get(row.name, ())) or "-",
        "AP": lambda row: row.measured_text("AP"),
        "AP50": lambda row: row.measured_text("AP50"),
        "iterations": lambda row: str(row.iterations or "-"),
        "runs": lambda row: str(row.runs or "-"),
        "published AP / AP50": lambda row: row.target_text(("AP", "AP50")),
        "params M": lambda row: "-" if row.params_m is None else f"{row.params_m:g}",
        "GMAC at 800 px": lambda row: "-" if row.gmac is None else f"{row.gmac:g}",
        "title": lambda row: config_title(row.name),
    }
    table = {title: [cell(row) for row in shown] for title, cell in cells.items()}
    optional = set(cells) - {"config", "params M", "GMAC at 800 px", "title"}
    table = {title: column for title, column in table.items() if title not in optional or {*column} - {"-", "–"}}
    print(tabulate(table, headers="keys", tablefmt="simple", disable_numparse=True))
    if len(shown) < len(fitting):
        left_out = len(fitting) - len(shown)
        print(f"\n{left_out} configs without figures are left out; --all, or a part of their names, lists them.")
    if published:
        names = ", ".join(entry.name for entry in published)
        print(f"\nPublished weights ({names}): d2tiny zoo --published lists their size, licence, data and figures.")


def _list_weights(published: list[PublishedWeights], pattern: str, place: str) -> None:
    """Print the published weights whose name or config matches."""
    from tabulate import tabulate

    from d2tiny.utils.published import default_labels

    if not published:
        print("No weights are published here; --weights-from names a folder or URL of some.")
        return
    fitting = [entry for entry in published if _matches(entry, pattern)]
    if not fitting:
        names = [entry.name for entry in published]
        raise ConfigError(f"No published weights match '{pattern}'. {did_you_mean(pattern, names)}")
    labels = default_labels(place)
    columns = ["weights", "MB", "licence", "data", "classes", "AP", "AP50", "measured on", "config"]
    rows = [
        [
            f"{entry.name} ({labels[entry.name]})" if entry.name in labels else entry.name,
            f"{entry.size / 1e6:.1f}",
            entry.licence,
            ", ".join(source.name for source in entry.data),
            ", ".join(entry.classes),
            *(_figure(entry, metric) for metric in ("AP", "AP50")),
            entry.measured.dataset,
            entry.config,
        ]
        for entry in fitting
    ]
    print(tabulate(rows, headers=columns, tablefmt="simple", disable_numparse=True))


def _matches(entry: PublishedWeights, pattern: str) -> bool:
    names = (entry.name, entry.config)
    return any(fnmatch.fnmatch(name, pattern) or pattern in name for name in names)


def _figure(entry: PublishedWeights, metric: str) -> str:
    value = entry.measured.metrics.get(metric)
    return "-" if value is None else f"{value:.1f}"
