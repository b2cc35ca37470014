"""Table of the model zoo (MODEL_ZOO.md): cost, published metrics and measured metrics of every config.

Costs are cached in ``results/zoo/cost.json`` because computing them takes minutes. Published metrics are in
``results/zoo/published.json``, measured metrics in the other records of ``results``.
"""

from __future__ import annotations

import json
import statistics
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

from d2tiny.config.files import config_names, configs_root, find_config

__all__ = ["PROPOSALS", "SIDE", "known_costs", "markdown"]

METRICS = ("AP", "AP50", "AP75", "APvt", "APt", "APs", "APm")
PROPOSALS = 1000
SIDE = 800
_HEAD = f"""# Model zoo

Made by `python tools/make_model_zoo.py`; do not edit. First [what was trained here](#measured-here), then all
configs by dataset with their costs and published numbers, {" / ".join(METRICS)}. GMAC are multiply-adds
of one image of {SIDE} px: backbone, neck, heads, and box heads for {PROPOSALS:,} proposals; deformable convolutions
count as plain ones. Of transformers the samples of deformable attention are not counted; they have the most
queries, and a sparse encoder updates all tokens, its worst case.
"""
_MEASURED = """## Measured here

The mean over the runs and half their range, on the validation images of the config's dataset (`quick/` trains and
tests on `aerial_*`), best AP first; how they were trained and what they show is in [results](results/README.md).

| config | iterations | runs | AP | AP50 | APvt | APt | APs | params M | GMAC |
|---|---|---|---|---|---|---|---|---|---|"""
_SHOWN = ("AP", "AP50", "APvt", "APt", "APs")
_CONFIGS = """## All configs

*Published* is what the named table says: a target, not a result of ours."""
# Metrics by zoo name, iterations, and the training that these started from ("" for none).
_Runs = dict[tuple[str, int, str], list[dict[str, float]]]


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


def _measured(results: Path) -> _Runs:
    """Return the metrics of all records of unmodified models and data."""
    metrics: _Runs = defaultdict(list)
    for path in sorted(results.rglob("*_seed*.json")):
        record = json.loads(path.read_text())
        overrides = [str(text) for text in record.get("overrides", [])]
        name = str(record.get("config", "")).removeprefix("configs/").removesuffix(".py")
        if not name or any(text.startswith(("model.", "dataloader.")) for text in overrides):
            continue
        runs = metrics[name, int(record["max_iter"]), _start(overrides)]
        if record["metrics"] not in runs:  # two tables may have a run in common
            runs.append(record["metrics"])
    return metrics


def _start(overrides: Sequence[str]) -> str:
    """Return the name of the training whose weights another one started from, or an empty text."""
    files = [text.partition("=")[2] for text in overrides if text.startswith("train.init_checkpoint=")]
    return Path(files[-1]).parent.name.rpartition("_seed")[0] if files else ""


def _link(name: str) -> str:
    return f"configs/{find_config(name).path.relative_to(configs_root()).as_posix()}"


def _size(costs: Mapping[str, Mapping[str, float]], name: str) -> str:
    size = costs.get(name, {"params_m": "?", "gmac": "?"})
    return f"{size['params_m']} | {size['gmac']}"


def _spread(values: list[float]) -> str:
    mean = statistics.mean(values)
    return f"{mean:.1f}" if len(values) == 1 else f"{mean:.1f} ± {(max(values) - min(values)) / 2:.1f}"


def _measured_rows(measured: _Runs, costs: Mapping[str, Mapping[str, float]]) -> list[str]:
    """Return the rows of what was trained, datasets one after another, the best AP first."""

    def order(key: tuple[str, int, str]) -> tuple[str, float]:
        return key[0].split("/")[0], -statistics.mean(run["AP"] for run in measured[key])

    rows = []
    for key in sorted(measured, key=order):
        name, iterations, start = key
        runs = measured[key]
        cells = [_spread([run[m] for run in runs]) if all(m in run for run in runs) else "–" for m in _SHOWN]
        title = f"[{name}]({_link(name)})" + f" after `{start}`" * bool(start)
        rows.append(f"| {title} | {iterations} | {len(runs)} | {' | '.join(cells)} | {_size(costs, name)} |")
    return rows


def markdown(results: Path) -> str:
    """Return the content of MODEL_ZOO.md.

    Args:
        results: the folder ``results`` of the repository.
    """
    costs = known_costs(results)
    published = json.loads((results / "zoo" / "published.json").read_text())
    names = [name for name in config_names() if not name.endswith(".yaml")]
    known = {key: runs for key, runs in _measured(results).items() if key[0] in names}
    lines = [_HEAD, _MEASURED, *_measured_rows(known, costs), "", _CONFIGS, ""]
    for folder in dict.fromkeys(name.split("/")[0] for name in names):
        lines += [f"### {folder}", "", "| config | params M | GMAC | published | table |", "|---|---|---|---|---|"]
        for name in (n for n in names if n.startswith(f"{folder}/")):
            target = published.get(name)
            lines.append(
                f"| [{name.split('/')[1]}]({_link(name)}) | {_size(costs, name)} | "
                f"{_numbers(target['metrics']) if target else '–'} | {target['source'] if target else '–'} |"
            )
        lines.append("")
    return "\n".join(lines)
