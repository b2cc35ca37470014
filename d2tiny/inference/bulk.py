"""Predict many scenes: a journal, shards, and results that do not depend on interruptions."""

from __future__ import annotations

import json
import logging
import os
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tqdm import tqdm

from d2tiny.data.loading.stretch import StretchLike
from d2tiny.inference.detector import ExportedDetector
from d2tiny.inference.engine import Engine, LocalEngine, SceneHead, scene_errors
from d2tiny.inference.journal import Journal, run_folder, shard_folders
from d2tiny.inference.merge import MergeSettings
from d2tiny.inference.outputs import OutputSettings, scene_targets
from d2tiny.inference.pixels import ReadSettings
from d2tiny.inference.predictor import TiledPredictor, TileSettings
from d2tiny.inference.run import (
    Finisher,
    RunSettings,
    RunSummary,
    SceneRun,
    config_record,
    export_record,
    failure_text,
    run_record,
)
from d2tiny.inference.scene import SceneDetections
from d2tiny.inference.scores import USUAL_SCORE, Scores
from d2tiny.inference.sources import collect_scenes
from d2tiny.inference.writers import open_coco
from d2tiny.utils.differences import settings_difference
from d2tiny.utils.errors import ConfigError, DatasetError
from d2tiny.utils.files import write_text
from d2tiny.utils.folders import lock_folder

if TYPE_CHECKING:
    from detectron2.config import CfgNode

__all__ = ["merge_shards", "predict_folder", "predict_scenes"]

logger = logging.getLogger(__name__)


def predict_scenes(
    cfg: CfgNode | TiledPredictor, inputs: Sequence[str], output: Path, settings: RunSettings | None = None
) -> RunSummary:
    """Predict scenes: maps, pictures, pages, and one COCO json of all.

    Args:
        cfg: as from ``d2tiny.model_zoo.get_cfg``, with weights; or what ``TiledPredictor.from_export`` gave, whose
            tiles and lowest score count.
        inputs: files, folders, globs, URLs, ``.txt`` lists of them.
        output: folder; gets for each scene what the settings tell, and ``detections.json`` (COCO with scores; boxes
            XYWH in px of the files); ``failed.json`` if scenes failed.
        settings: of the run.

    Returns:
        What was done. Scenes that fail do not end the run.

    Raises:
        ConfigError: settings outside their range; an output that would overwrite an input, cannot be written to, or
            holds a run of other settings.
        CheckpointError: weights that do not fit.
        DatasetError: an input that matches nothing.
        ImportError: an extra that is not installed.
    """
    settings = _settings_with(cfg, settings or RunSettings())
    started = time.monotonic()
    scenes = collect_scenes(inputs)
    output.mkdir(parents=True, exist_ok=True)
    if not os.access(output, os.W_OK | os.X_OK):
        raise ConfigError(f"--output {output}: no right to write there; choose another folder.")
    targets = scene_targets(scenes, output, settings.outputs)
    engine = _engine(cfg, settings, scenes)
    with ExitStack() as stack:
        stack.callback(engine.close)
        record = run_record(_record(cfg), scenes, settings, engine)
        journal = stack.enter_context(Journal.open(run_folder(output, settings.shard), record, resume=settings.resume))
        summary = _run(engine, journal, scenes, targets, settings)
        journal.settle(shard=settings.shard is not None)
    summary.seconds = time.monotonic() - started
    return summary


def _settings_with(model: CfgNode | TiledPredictor, settings: RunSettings) -> RunSettings:
    """Return the settings of a run; a predictor that is built has its own tiles and score.

    Raises:
        ConfigError: they cannot be of an exported model, or the predictor is of another.
    """
    if not isinstance(model, TiledPredictor):
        return settings
    if not isinstance(model.detector, ExportedDetector):
        raise ConfigError("predict_scenes takes a config, or a predictor of TiledPredictor.from_export.")
    if settings.ray:
        raise ConfigError("--ray does not run exported models: share the scenes with --shard, one process each.")
    for option, given in (("bf16", settings.bf16), ("tta", settings.tta)):
        if given:
            raise ConfigError(f"--{option} does not go with an exported model, whose precision and graph are fixed.")
    return replace(settings, tiles=model.settings, score=model.detector.score)


def _engine(model: CfgNode | TiledPredictor, settings: RunSettings, scenes: list[str]) -> Engine:
    """Return what works on scenes."""
    if settings.ray:
        from d2tiny.inference.ray import RayEngine

        return RayEngine(model, settings, scenes)
    built = isinstance(model, TiledPredictor)
    predictor = model if built else TiledPredictor(model, **settings.predictor_options())
    return LocalEngine(predictor, settings.read, settings.aoi, scenes)


def _record(model: CfgNode | TiledPredictor) -> dict[str, str]:
    """Return what tells a model from others."""
    return export_record(model.model) if isinstance(model, TiledPredictor) else config_record(model)


def _run(
    engine: Engine, journal: Journal, scenes: Sequence[str], targets: Sequence[Path], settings: RunSettings
) -> RunSummary:
    """Do what a journal lacks."""
    if journal.complete:
        return RunSummary(len(journal.done), 0, sum(entry["objects"] for entry in journal.done.values()))
    run = SceneRun(journal, scenes, targets, engine, settings)
    try:
        engine.run([(n, scenes[n]) for n in journal.settings["mine"] if n not in journal.done], run)
    finally:
        run.close()
        run.summary.scenes = len(journal.done)
        run.summary.failed = [entry["error"] for _, entry in sorted(journal.failed.items())]
        if settings.shard is None:
            done = dict.fromkeys(journal.done, journal)
            _collect(journal.folder.parent, done, journal.failed, journal.settings, run.summary)
    return run.summary


def predict_folder(
    cfg: CfgNode,
    inputs: Sequence[str],
    output: Path,
    *,
    score: Scores = USUAL_SCORE,
    bf16: bool = False,
    stretch: StretchLike = None,
    progress: bool = True,
) -> list[str]:
    """Predict images with the default settings, see :func:`predict_scenes`; return a message for each that failed."""
    settings = RunSettings(read=ReadSettings(stretch), score=score, bf16=bf16, progress=progress)
    return predict_scenes(cfg, inputs, output, settings).failed


def merge_shards(output: Path, *, progress: bool = True) -> RunSummary:
    """Join the shards of a run: merge scenes whose tiles they share, and write the COCO json of all.

    Args:
        output: folder that all shards wrote to (or that their ``.run-…`` folders were copied to).
        progress: show a bar.

    Raises:
        ConfigError: a shard is missing, not finished, or has other settings than the first; says which.
    """
    started = time.monotonic()
    journals = _complete_shards(output)
    record = journals[0].settings
    outputs = OutputSettings(**{**record["outputs"], "formats": _tuple(record["outputs"]["formats"])})
    kept = record["read"]
    read = ReadSettings(kept["stretch"] or None, _tuple(kept["bands"]), kept["gsd"], kept.get("resize"))
    aoi = Path(record["aoi"][0]) if record["aoi"] else None
    tiles = TileSettings(**record["tiles"])
    settings = RunSettings(
        tiles, read, outputs, score=record["score"], aoi=aoi, model=record["model"], progress=progress
    )
    scenes = record["scenes"]
    targets = scene_targets(scenes, output, outputs)
    merge = MergeSettings(**record["merge"])
    finisher = Finisher(journals[0], settings, targets, record["classes"], merge)
    summary = RunSummary()
    with ExitStack() as stack:
        for journal in journals:
            stack.enter_context(lock_folder(journal.folder, key="--output"))
        for number in tqdm(_shared(journals), desc="merge", unit="scene", disable=not progress):
            try:
                head = _common_head(number, journals)
                finisher.finish(number, head, [journal.part(number) for journal in journals], None)
            except scene_errors() as err:
                journals[0].note(scene=number, state="failed", error=failure_text(scenes[number], err))
        done = {n: journal for journal in journals for n in journal.done if not journal.done[n].get("split")}
        failed = {n: entry for journal in journals for n, entry in journal.failed.items() if n not in done}
        summary.scenes, summary.failed = len(done), [entry["error"] for _, entry in sorted(failed.items())]
        _collect(output, done, failed, record, summary)
    summary.seconds = time.monotonic() - started
    return summary


def _shared(journals: Sequence[Journal]) -> list[int]:
    """Return the scenes of which every shard has tiles, and that are not joined."""
    return [n for n in journals[0].done if all(journal.done.get(n, {}).get("split") for journal in journals)]


def _common_head(number: int, journals: Sequence[Journal]) -> SceneHead:
    """Return the head of a scene that shards share.

    Raises:
        DatasetError: they saw different files.
    """
    heads = [SceneHead.from_stored(journal.done[number]["head"]) for journal in journals]
    other = next((shard for shard, head in enumerate(heads, start=1) if not head.same_content(heads[0])), None)
    if other is not None:
        raise DatasetError(
            f"{heads[0].path}: shard {other} saw another file than shard 1. Delete the .run folders of the shards that "
            "saw an old one, and run them again."
        )
    return heads[0]


def _tuple(value: list[Any] | None) -> tuple[Any, ...] | None:
    return None if value is None else tuple(value)


def _complete_shards(output: Path) -> list[Journal]:
    """Return the journals of all shards in an output.

    Raises:
        ConfigError: they do not make up a run.
    """
    folders = shard_folders(output)
    if not folders:
        raise ConfigError(f"{output}: no shards here; d2tiny predict --shard 1/N makes the first of N.")
    counts = sorted({count for _, count in folders})
    if len(counts) > 1:
        raise ConfigError(f"{output}: shards of runs of {' and '.join(map(str, counts))} parts; keep those of one.")
    missing = [i for i in range(1, counts[0] + 1) if (i, counts[0]) not in folders]
    if missing:
        raise ConfigError(f"{output}: shards {', '.join(map(str, missing))} of {counts[0]} are missing.")
    journals = [Journal(folders[i, counts[0]]) for i in range(1, counts[0] + 1)]
    for number, journal in enumerate(journals, start=1):
        if not journal.finished:
            raise ConfigError(f"{output}: shard {number} of {counts[0]} is not finished; run it with --resume.")
        if difference := settings_difference(journals[0].settings, journal.settings, ("mine",)):
            raise ConfigError(f"{output}: shard {number} has other settings than shard 1 ({difference}).")
    return journals


def _collect(
    output: Path,
    done: Mapping[int, Journal],
    failed: Mapping[int, Mapping[str, Any]],
    record: Mapping[str, Any],
    summary: RunSummary,
) -> None:
    """Write the COCO json of all scenes that are done, and the list of those that failed."""
    path, scenes = output / "detections.json", record["scenes"]
    try:
        summary.objects = _write_coco(path, done, record)
    except OSError as err:
        other = Path(tempfile.mkdtemp(prefix="d2tiny-")) / path.name
        summary.objects = _write_coco(other, done, record)
        summary.failed.append(f"{path}: {err.strerror or err}. The detections are in {other}; move them.")
        logger.warning("%s", summary.failed[-1])
    list_file = output / "failed.json"
    if failed:
        entries = [{"scene": scenes[n], "error": entry["error"]} for n, entry in sorted(failed.items())]
        write_text(list_file, json.dumps(entries, indent=1, ensure_ascii=False) + "\n")
    else:
        list_file.unlink(missing_ok=True)


def _write_coco(path: Path, done: Mapping[int, Journal], record: Mapping[str, Any]) -> int:
    """Write the objects of all scenes; return how many there are."""
    count, classes = 0, record["classes"]
    with open_coco(path, classes) as writer:
        for number, journal in sorted(done.items()):
            head = SceneHead.from_stored(journal.done[number]["head"])
            found = SceneDetections(head.scene(classes, record["model"], record["score"]), *journal.kept(number))
            writer.add_scene(found.scene)
            writer.write(found)
            count += len(found)
    return count
