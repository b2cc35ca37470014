"""Figures of the model zoo: what each config costs, what was measured with it, and what its publication says.

``python tools/make_model_zoo.py`` collects them from ``results/`` into ``configs/zoo.json``, which an installed package
has too. ``MODEL_ZOO.md``, the page of the site and ``d2tiny zoo`` show its rows, in its order.
"""

from __future__ import annotations

import json
import statistics
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import msgspec

from d2tiny.config.files import config_names, configs_root, find_config
from d2tiny.utils.errors import D2TinyError

__all__ = ["METRICS", "ZooRow", "collect_rows", "family_of", "known_costs", "read_rows", "rows_json", "zoo_file"]

METRICS = ("AP", "AP50", "AP75", "APvt", "APt", "APs", "APm")
_FAMILIES = (
    ("faster_rcnn", "Faster R-CNN"),
    ("cascade_rcnn", "Cascade R-CNN"),
    ("detectors", "DetectoRS"),
    ("fcos", "FCOS"),
    ("retinanet", "RetinaNet"),
    ("yolox", "YOLOX"),
    ("yolov5", "YOLOv5"),
    ("yolo11", "YOLO11"),
    ("rs_tinynet", "RS-TinyNet"),
    ("dino", "DINO"),
    ("scalebridge", "ScaleBridge-Det"),
)
# Metrics by zoo name, iterations, and the training that these started from ("" for none).
_Runs = dict[tuple[str, int, str], list[dict[str, float]]]


@dataclass(frozen=True)
class ZooRow:
    """A config as it was trained once or several times with one length, or a config that was not trained here.

    Attributes:
        name: zoo name.
        file: its file, relative to the folder of the configs.
        params_m: parameters in millions; None where they were not counted.
        gmac: multiply-adds of one image, in billions.
        iterations: length of the training; 0 where there was none.
        runs: number of trainings that differ in their seed only.
        start: the training whose weights these started from; empty for none.
        measured: metric to mean and half the range over the runs.
        target: metrics of the publication that the config follows.
        source: where these are published.
    """

    name: str
    file: str
    params_m: float | None = None
    gmac: float | None = None
    iterations: int = 0
    runs: int = 0
    start: str = ""
    measured: dict[str, tuple[float, float]] = field(default_factory=dict)
    target: dict[str, float] = field(default_factory=dict)
    source: str = ""

    @property
    def dataset(self) -> str:
        """The folder of the config, which is that of its dataset; those of ``quick`` train on ``aerial``."""
        return self.name.split("/")[0]

    @property
    def has_figures(self) -> bool:
        """Whether anybody, here or in the publication, has measured it."""
        return bool(self.measured or self.target)

    def measured_text(self, metric: str) -> str:
        """Return mean and half range as text; ``–`` where the metric was not measured."""
        if metric not in self.measured:
            return "–"
        mean, half = self.measured[metric]
        return f"{mean:.1f}" if self.runs < 2 else f"{mean:.1f} ± {half:.1f}"

    def target_text(self, metrics: Sequence[str] = METRICS) -> str:
        """Return the published metrics as ``26.3 / –``; ``–`` where none are published."""
        if not self.target:
            return "–"
        return " / ".join(f"{self.target[m]:.1f}" if self.target.get(m) is not None else "–" for m in metrics)


def family_of(name: str) -> str:
    """Return the detector's family from the name of a config, for example ``Cascade R-CNN``."""
    experiment = name.split("/")[-1]
    return next((title for prefix, title in _FAMILIES if experiment.startswith(prefix)), "other")


def known_costs(results: Path) -> dict[str, dict[str, float]]:
    """Return the stored cost of each config: zoo name to ``params_m`` (millions) and ``gmac`` (billions)."""
    store = results / "zoo" / "cost.json"
    return json.loads(store.read_text(encoding="utf-8")) if store.is_file() else {}


def collect_rows(results: Path) -> list[ZooRow]:
    """Return the rows of the zoo: first what was measured, then what is published, then the rest.

    Datasets come one after another, of what was measured the best AP first.

    Args:
        results: the folder ``results`` of the repository.
    """
    costs = known_costs(results)
    published = json.loads((results / "zoo" / "published.json").read_text(encoding="utf-8"))
    runs = _measured(results)
    rows = []
    for name in config_names():
        file = find_config(name).path.relative_to(configs_root()).as_posix()
        cost = costs.get(name, {})
        row = ZooRow(name, file, params_m=cost.get("params_m"), gmac=cost.get("gmac"))
        if name in published:
            row = replace(row, target=published[name]["metrics"], source=published[name]["source"])
        rows += [_trained(row, key, runs[key]) for key in runs if key[0] == name] or [row]
    return sorted(rows, key=_order)


def _trained(row: ZooRow, key: tuple[str, int, str], runs: list[dict[str, float]]) -> ZooRow:
    """Return the row of a config with the figures of its trainings of one kind."""
    known = [metric for metric in METRICS if all(run.get(metric) is not None for run in runs)]
    measured = {metric: _mean_and_half_range([run[metric] for run in runs]) for metric in known}
    return replace(row, iterations=key[1], runs=len(runs), start=key[2], measured=measured)


def _mean_and_half_range(values: list[float]) -> tuple[float, float]:
    return statistics.mean(values), (max(values) - min(values)) / 2


def _order(row: ZooRow) -> tuple[int, str, float, str]:
    group = 0 if row.measured else 1 if row.target else 2
    return group, row.dataset, -row.measured.get("AP", (0.0, 0.0))[0], row.name


def _measured(results: Path) -> _Runs:
    """Return the metrics of all records of unmodified models and data.

    Those of a config that trains another model by now say so under ``superseded``, and are left out.
    """
    metrics: _Runs = defaultdict(list)
    for path in sorted(results.rglob("*_seed*.json")):
        record = json.loads(path.read_text(encoding="utf-8"))
        overrides = [str(text) for text in record.get("overrides", [])]
        name = str(record.get("config", "")).removeprefix("configs/").removesuffix(".py")
        modified = any(text.startswith(("model.", "dataloader.")) for text in overrides)
        if not name or modified or record.get("superseded"):
            continue
        runs = metrics[name, int(record["max_iter"]), _start(overrides)]
        if record["metrics"] not in runs:  # two tables may have a run in common
            runs.append(record["metrics"])
    return metrics


def _start(overrides: Sequence[str]) -> str:
    """Return the name of the training whose weights another one started from, or an empty text."""
    files = [text.partition("=")[2] for text in overrides if text.startswith("train.init_checkpoint=")]
    return Path(files[-1]).parent.name.rpartition("_seed")[0] if files else ""


def rows_json(rows: Iterable[ZooRow]) -> str:
    """Return the content of ``configs/zoo.json``, one row a line; what is empty is left out."""
    lines = [json.dumps({k: v for k, v in asdict(row).items() if v not in (None, 0, "", {})}) for row in rows]
    return "[\n " + ",\n ".join(lines) + "\n]\n"


def zoo_file() -> Path:
    """Return the file of the figures, beside the configs."""
    return configs_root() / "zoo.json"


def read_rows(path: Path | None = None) -> list[ZooRow]:
    """Return the rows of the zoo from ``configs/zoo.json``; configs that it lacks come last, without figures.

    Raises:
        D2TinyError: the file is not what ``tools/make_model_zoo.py`` writes.
    """
    path = zoo_file() if path is None else path
    known = config_names()
    try:
        stored = msgspec.json.decode(path.read_bytes(), type=list[ZooRow]) if path.is_file() else []
    except msgspec.MsgspecError as err:
        message = f"{path} is damaged: {err}. Reinstall d2tiny, or run tools/make_model_zoo.py."
        raise D2TinyError(message) from err
    rows = [row for row in stored if row.name in known]
    listed = {row.name for row in rows}
    return rows + [ZooRow(name, "") for name in known if name not in listed]
