"""Publish trained weights: half precision, checked against the training, with an entry in a manifest."""

from __future__ import annotations

import hashlib
import io
import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import msgspec
import torch
from omegaconf import DictConfig
from torch import Tensor, nn

from d2tiny.config import load_config
from d2tiny.config.files import config_names, find_config
from d2tiny.config.shapes import build_node
from d2tiny.data.datasets import class_names
from d2tiny.engine.run import Evaluation
from d2tiny.utils.checkpoint_files import is_finite, read_checkpoint
from d2tiny.utils.errors import CheckpointError, ConfigError
from d2tiny.utils.files import open_atomic, read_json, write_text
from d2tiny.utils.licences import DataSource, refused_licences
from d2tiny.utils.published import (
    MANIFEST,
    Manifest,
    Measurement,
    PublishedWeights,
    manifest_text,
    read_manifest,
)
from d2tiny.utils.weights import load_weights

__all__ = ["FILE_LIMIT", "TOTAL_LIMIT", "About", "evaluate_weights", "halved", "publish"]

FILE_LIMIT = 10_000_000  # bytes of one file
TOTAL_LIMIT = 30_000_000  # bytes of all
_AP_TOLERANCE = 0.1  # points between the trained weights and the file
_RECORD_TOLERANCE = 0.5  # points between the trained weights and result.json, which may be of bfloat16
_SPREAD = ("AP", "AP50", "AP75", "APvt", "APt", "APs", "APm")

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class About:
    """What a training does not know about its weights.

    Attributes:
        name: of the weights.
        title: one line, what they find and where.
        data: what they were trained on.
        licence: SPDX identifier.
        images: what images they are made for.
        not_for: what they are not made for, a sentence each.
        fails: where they fail, a sentence each, as who looked at pictures saw it.
        kind: of images for which they are taken where nothing is named; see ``PublishedWeights.kind``.
        splits: what images and objects a split has, by its registered name: of the test split of the config, and of
            others on which the file is measured as well.
    """

    name: str
    title: str
    data: tuple[DataSource, ...]
    licence: str
    images: str
    not_for: tuple[str, ...] = ()
    fails: tuple[str, ...] = ()
    kind: Literal["", "grey", "colour"] = ""
    splits: Mapping[str, str] = field(default_factory=dict)


def halved(model: nn.Module) -> dict[str, Tensor]:
    """Return the state of a model with weights in float16.

    Biases, scales and statistics of normalisation, and what float16 cannot hold, stay as they are: they are small, and
    errors in them would act on a whole channel.
    """
    large = {name for name, parameter in model.named_parameters() if parameter.ndim >= 2}
    state = {}
    for name, value in model.state_dict().items():
        half = value.to(torch.float16) if name in large else value
        state[name] = (half if is_finite(half) else value).detach().cpu().contiguous()
    return state


def evaluate_weights(config: str, weights: Path, output: Path, overrides: Sequence[str] = ()) -> dict[str, float]:
    """Return the metrics of weights on the test split of their config, in float32.

    Args:
        config: name in the zoo.
        weights: the file.
        output: gets ``inference/coco_instances_results.json``.
        overrides: of the config.
    """
    cfg = _config(config, output, overrides)
    model = _model(cfg)
    load_weights(model, weights)
    return Evaluation(cfg, "cpu")(model)


def publish(
    training: Path, about: About, folder: Path, work: Path, *, results: Sequence[Path] = (), default: bool = False
) -> PublishedWeights:
    """Write the final weights of a training and their entry into a folder of published weights.

    Args:
        training: folder of a finished training, with ``model_final.pth`` (the averaged weights, where the training has
            them) and ``result.json``.
        about: what to say about them.
        folder: of the manifest; what it has under the same name is replaced.
        work: gets the predictions of the published file on the test split.
        results: records of all trainings of this config, for the spread; default: this training's.
        default: take these weights where nothing is named.

    Returns:
        The entry.

    Raises:
        ConfigError: a licence that does not permit publication, a training of a changed model, records of others, a
            split of other classes.
        CheckpointError: no such training, weights that are not those of the record, that float16 changes by more than
            0.1 AP, or that are too large. Nothing is written then.
    """
    if refused := refused_licences(about.data, about.licence):
        raise ConfigError(f"{about.name}: must not be published: {'; '.join(refused)}.")
    record = _record(training / "result.json")
    config = _config_of(record)
    if config not in config_names():
        raise ConfigError(f"{training}: was trained with {config}, which is no config of the zoo.")
    measured = [_record(path) for path in results] or [record]
    if others := [path for path, run in zip(results, measured, strict=False) if _config_of(run) != config]:
        raise ConfigError(f"{others[0]}: is a result of {_config_of(_record(others[0]))}, not of {config}.")
    overrides = _kept_overrides(record)
    cfg = _config(config, work, overrides)
    model = _model(cfg)
    dataset = str(cfg.dataloader.test.dataset.names)
    splits = _other_splits(config, about, dataset, work, overrides)
    content, metrics = _half_file(cfg, model, training / "model_final.pth", record)
    old = read_manifest(folder) if (folder / MANIFEST).is_file() else Manifest()
    entry = PublishedWeights(
        name=about.name,
        title=about.title,
        config=config,
        file=f"{about.name}.pth",
        sha256="0" * 64,
        size=1,
        classes=tuple(class_names(dataset)),
        licence=about.licence,
        data=about.data,
        images=about.images,
        not_for=about.not_for,
        fails=about.fails,
        training=_training_line(record),
        kind=about.kind,
        measured=Measurement(
            dataset,
            str(cfg.dataloader.evaluator.protocol),
            _rounded(metrics),
            len(measured),
            _spread(measured),
            tuple(sorted(name for name in map(_in_results, results) if name)),
            about.splits.get(dataset, ""),
        ),
        also=tuple(
            Measurement(
                name, str(cfg.dataloader.evaluator.protocol), _rounded(evaluate(model)), images=about.splits[name]
            )
            for name, evaluate in splits.items()
        ),
    )
    return _write(content, entry, old, folder, default)


def _other_splits(
    config: str, about: About, dataset: str, work: Path, overrides: Sequence[str]
) -> dict[str, Evaluation]:
    """Return the evaluations of the splits other than that of the config; predictions go to a folder of their name.

    Raises:
        ConfigError: a split has other classes.
    """
    classes, found = class_names(dataset), {}
    for name in (name for name in about.splits if name != dataset):
        if (other := class_names(name)) != classes:
            raise ConfigError(f"{about.name}: '{name}' has the classes {other}, but '{dataset}' has {classes}.")
        cfg = _config(config, work / name, [*overrides, f"dataloader.test.dataset.names={name}"])
        found[name] = Evaluation(cfg, "cpu")
    return found


def _rounded(metrics: Mapping[str, float]) -> dict[str, float | None]:
    return {key: None if math.isnan(value) else round(value, 2) for key, value in metrics.items()}


def _record(path: Path) -> dict[str, Any]:
    """Read the record of a training."""
    record = read_json(path)
    if not isinstance(record, dict) or not isinstance(record.get("metrics"), dict) or not record.get("config"):
        raise ConfigError(f"{path}: is no record of a training: it needs 'config' and 'metrics'.")
    return record


def _in_results(path: Path) -> str:
    """Return the name of a record in the repository, from the folder ``results`` on; empty if it lies elsewhere."""
    parts = path.resolve().parts
    return "/".join(parts[parts.index("results") :]) if "results" in parts else ""


def _config_of(record: Mapping[str, Any]) -> str:
    return find_config(str(record["config"])).name


def _kept_overrides(record: Mapping[str, Any]) -> list[str]:
    """Return the overrides that decide on what is evaluated.

    Raises:
        ConfigError: the model or what it sees was changed, so that ``get_cfg`` would build another one.
    """
    overrides = [str(text) for text in record.get("overrides", ())]
    changed = [text for text in overrides if text.lstrip("+~").startswith(("model.", "dataloader.test.mapper"))]
    if changed:
        raise ConfigError(f"The training changed its config ({changed[0]}): give it a config of its own in the zoo.")
    return [text for text in overrides if text.startswith(("dataloader.test.", "dataloader.evaluator."))]


def _config(config: str, output: Path, overrides: Sequence[str]) -> DictConfig:
    path = str(output).replace("'", "\\'")
    return load_config(config, [*overrides, "train.amp.enabled=false", f"train.output_dir='{path}'"])


def _model(cfg: DictConfig) -> nn.Module:
    model: nn.Module = build_node(cfg.model)
    return model.eval()


def _half_file(
    cfg: DictConfig, model: nn.Module, weights: Path, record: Mapping[str, Any]
) -> tuple[dict[str, Tensor], dict[str, float]]:
    """Return the state in half precision, and its metrics, after a comparison with those of the weights themselves."""
    load_weights(model, weights)
    evaluation = Evaluation(cfg, "cpu")
    full, recorded = evaluation(model)["AP"], float(record["metrics"]["AP"])
    if not abs(full - recorded) <= _RECORD_TOLERANCE:
        raise CheckpointError(
            f"{weights}: has AP {full:.2f} on {cfg.dataloader.test.dataset.names}, but result.json beside it says "
            f"{recorded:.2f}; is it of another training?"
        )
    state = halved(model)
    model.load_state_dict(state)
    metrics = evaluation(model)
    if not abs(metrics["AP"] - full) <= _AP_TOLERANCE:
        raise CheckpointError(
            f"{weights}: AP falls from {full:.2f} to {metrics['AP']:.2f} in half precision, more than {_AP_TOLERANCE}."
        )
    logger.info("AP %.3f in float32, %.3f in float16.", full, metrics["AP"])
    return state, metrics


def _spread(records: Sequence[Mapping[str, Any]]) -> dict[str, tuple[float, float]]:
    """Return the lowest and highest value of each metric over several runs; empty for one."""
    found = {}
    for key in _SPREAD if len(records) > 1 else ():
        values = [run["metrics"].get(key) for run in records]
        if all(value is not None for value in values):
            found[key] = (round(min(values), 2), round(max(values), 2))
    return found


def _training_line(record: Mapping[str, Any]) -> str:
    hardware = record.get("hardware", {})
    return (
        f"{record.get('max_iter', '?')} iterations, seed {record.get('seed', '?')}, "
        f"{float(record.get('seconds', 0)) / 60:.0f} minutes with {hardware.get('threads', '?')} thread(s) of "
        f"{hardware.get('processor', 'an unknown processor')}"
    )


def _write(
    state: dict[str, Tensor], entry: PublishedWeights, old: Manifest, folder: Path, default: bool
) -> PublishedWeights:
    """Write file and manifest; nothing if a size is beyond its limit, or the entry is none that can be read again."""
    others = tuple(other for other in old.weights if other.name != entry.name)
    about = {"name": entry.name, "config": entry.config, "licence": entry.licence, "classes": list(entry.classes)}
    buffer = io.BytesIO()
    torch.save({"model": state, "d2tiny": about}, buffer)
    content, path = buffer.getvalue(), folder / entry.file
    total = len(content) + sum(other.size for other in others)
    if len(content) > FILE_LIMIT or total > TOTAL_LIMIT:
        raise CheckpointError(
            f"{path}: would have {len(content) / 1e6:.1f} MB, {total / 1e6:.1f} MB with the others; allowed are "
            f"{FILE_LIMIT / 1e6:.0f} and {TOTAL_LIMIT / 1e6:.0f} MB."
        )
    entry = msgspec.structs.replace(entry, sha256=hashlib.sha256(content).hexdigest(), size=len(content))
    entries = tuple(sorted((*others, entry), key=lambda weights: weights.name))
    text = manifest_text(Manifest(default=entry.name if default else old.default, weights=entries))
    with open_atomic(path) as file:
        file.write(content)
    write_text(folder / MANIFEST, text)
    read_checkpoint(path)
    return msgspec.structs.replace(entry, place=str(folder))
