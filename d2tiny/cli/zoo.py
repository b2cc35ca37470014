"""``d2tiny zoo``: list the configs."""

from __future__ import annotations

import argparse
import fnmatch

from d2tiny.utils.errors import ConfigError, did_you_mean

__all__ = ["EXAMPLE", "add_arguments", "run"]

EXAMPLE = "d2tiny zoo 'quick/*'"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    parser.add_argument(
        "pattern", nargs="?", default="*", metavar="GLOB", help="names to list, such as 'aitod/*', or a part of them"
    )


def run(args: argparse.Namespace) -> int:
    """Print the name, the cost where it is known, and the title of each config."""
    from tabulate import tabulate

    from d2tiny.analysis.zoo_table import known_costs
    from d2tiny.config.files import config_names, config_title, configs_root

    known = config_names()
    pattern = args.pattern.removeprefix("configs/")
    names = fnmatch.filter(known, pattern) or [name for name in known if pattern in name]
    if not names:
        raise ConfigError(f"No config matches '{args.pattern}'. {did_you_mean(pattern, known)}")
    costs = known_costs(configs_root().parent / "results")
    columns = ["config", "title"]
    rows = [[name, config_title(name)] for name in names]
    if costs:
        columns[1:1] = ["params M", "GMAC at 800 px"]
        for row in rows:
            cost = costs.get(row[0], {})
            row[1:1] = [f"{cost[key]:g}" if key in cost else "-" for key in ("params_m", "gmac")]
    print(tabulate(rows, headers=columns, tablefmt="simple", disable_numparse=True))
    return 0
