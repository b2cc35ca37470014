"""``d2tiny zoo``: list the configs, or the published weights."""

from __future__ import annotations

import argparse
import fnmatch
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
    add_weights_place_option(parser)


def run(args: argparse.Namespace) -> int:
    """Print what is asked for."""
    from d2tiny.utils.published import known_weights

    known = known_weights(args.weights_from)
    if args.published:
        _list_weights(known, args.pattern, args.weights_from)
    else:
        _list_configs(known, args.pattern)
    return 0


def _list_configs(published: list[PublishedWeights], given: str) -> None:
    """Print the name, the cost where it is known, published weights and the title of each config."""
    from tabulate import tabulate

    from d2tiny.analysis.zoo_table import known_costs
    from d2tiny.config.files import config_names, config_title, configs_root

    known = config_names()
    pattern = given.removeprefix("configs/")
    names = fnmatch.filter(known, pattern) or [name for name in known if pattern in name]
    if not names:
        raise ConfigError(f"No config matches '{given}'. {did_you_mean(pattern, known)}")
    costs = known_costs(configs_root().parent / "results")
    offered = {name: ", ".join(entry.name for entry in published if entry.config == name) for name in names}
    columns = ["config", "title"]
    rows = [[name, config_title(name)] for name in names]
    if any(offered.values()):
        columns.insert(1, "weights")
        for row in rows:
            row.insert(1, offered[row[0]] or "-")
    if costs:
        columns[1:1] = ["params M", "GMAC at 800 px"]
        for row in rows:
            cost = costs.get(row[0], {})
            row[1:1] = [f"{cost[key]:g}" if key in cost else "-" for key in ("params_m", "gmac")]
    print(tabulate(rows, headers=columns, tablefmt="simple", disable_numparse=True))


def _list_weights(published: list[PublishedWeights], pattern: str, place: str) -> None:
    """Print the published weights whose name or config matches."""
    from tabulate import tabulate

    from d2tiny.utils.published import default_weights

    if not published:
        print("No weights are published here; --weights-from names a folder or URL of some.")
        return
    fitting = [entry for entry in published if _matches(entry, pattern)]
    if not fitting:
        names = [entry.name for entry in published]
        raise ConfigError(f"No published weights match '{pattern}'. {did_you_mean(pattern, names)}")
    default = default_weights(place)
    columns = ["weights", "MB", "licence", "data", "classes", "AP", "AP50", "measured on", "config"]
    rows = [
        [
            entry.name + " (default)" * (default is not None and entry.name == default.name),
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
