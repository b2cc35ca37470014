"""Table of the model zoo (MODEL_ZOO.md): cost, published metrics and measured metrics of every config.

Costs are cached in ``results/zoo/cost.json`` because computing them takes minutes. Published metrics are in
``results/zoo/published.json``, measured metrics in the other records of ``results``.
"""

from __future__ import annotations

import json
import statistics
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path

from d2tiny.config.files import config_names, configs_root, find_config

__all__ = ["PROPOSALS", "SIDE", "known_costs", "markdown"]

METRICS = ("AP", "AP50", "AP75", "APvt", "APt", "APs", "APm")
PROPOSALS = 1000
SIDE = 800
_HEAD = f"""# Model zoo

Made by `python tools/make_model_zoo.py`; do not edit. Numbers are {" / ".join(METRICS)}.
*Published* is what the named table says: a target, not a result of ours. *Measured* is ours, the mean over the named
number of runs on `aerial_*` (see [results](results/README.md)); "not run" was never trained here. GMAC are
multiply-adds of one image of {SIDE} px: backbone, neck, heads, and box heads for {PROPOSALS:,} proposals; deformable
convolutions count as plain ones. Of transformers the samples of deformable attention are not counted; they have the
largest number of queries.
"""
_COLUMNS = ("config", "params M", "GMAC", "published", "table", "measured")


def known_costs(results: Path) -> dict[str, dict[str, float]]:
    """Return the stored cost of each config: zoo name to ``params_m`` (millions) and ``gmac`` (billions).

    Args:
        results: the folder ``results`` of the project; an installed package has none, and gets an empty dict.
    """
    store = results / "zoo" / "cost.json"
    return json.loads(store.read_text()) if store.is_file() else {}


def _numbers(metrics: Mapping[str, float | None]) -> str:
    values = [metrics.get(key) for key in METRICS]
    return " / ".join("–" if value is None else f"{value:.1f}" for value in values)


def _measured(results: Path) -> dict[str, list[dict[str, float]]]:
    """Return the metrics of all records of unmodified configs and schedules, by zoo name."""
    metrics: dict[str, list[dict[str, float]]] = defaultdict(list)
    for path in sorted(results.rglob("*_seed*.json")):
        record = json.loads(path.read_text())
        changed = [o for o in record.get("overrides", []) if o.startswith(("model.", "train.max_iter"))]
        name = str(record.get("config", "")).removeprefix("configs/").removesuffix(".py")
        if not changed and name:
            metrics[name].append(record["metrics"])
    return metrics


def _link(name: str) -> str:
    return f"configs/{find_config(name).path.relative_to(configs_root()).as_posix()}"


def markdown(results: Path) -> str:
    """Return the content of MODEL_ZOO.md.

    Args:
        results: the folder ``results`` of the repository.
    """
    costs = known_costs(results)
    published = json.loads((results / "zoo" / "published.json").read_text())
    measured = _measured(results)
    names = [name for name in config_names() if not name.endswith(".yaml")]
    lines = [_HEAD]
    for folder in dict.fromkeys(name.split("/")[0] for name in names):
        lines += [
            f"## {folder}",
            "",
            "| config | params M | GMAC | published | table | measured |",
            "|---|---|---|---|---|---|",
        ]
        for name in (n for n in names if n.startswith(f"{folder}/")):
            target, runs = published.get(name), measured.get(name, [])
            ours = "not run"
            if runs:
                means = {m: statistics.mean(r[m] for r in runs) for m in METRICS if all(m in r for r in runs)}
                ours = f"{_numbers(means)} ({len(runs)} runs)"
            size = costs.get(name, {"params_m": "?", "gmac": "?"})
            lines.append(
                f"| [{name.split('/')[1]}]({_link(name)}) | {size['params_m']} | {size['gmac']} | "
                f"{_numbers(target['metrics']) if target else '–'} | {target['source'] if target else '–'} | {ours} |"
            )
        lines.append("")
    return "\n".join(lines)
