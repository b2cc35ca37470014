"""Predict many scenes: a journal, shards, and results that do not depend on interruptions."""

from __future__ import annotations

import json
import logging
import os
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from detectron2.config import CfgNode

from d2tiny.inference.engine import Engine, LocalEngine, SceneHead
from d2tiny.inference.journal import Journal, run_folder
from d2tiny.inference.outputs import scene_targets
from d2tiny.inference.predictor import TiledPredictor
from d2tiny.inference.run import RunSettings, RunSummary, SceneRun, run_record
from d2tiny.inference.scene import SceneDetections
from d2tiny.inference.sources import collect_scenes
from d2tiny.inference.writers import open_coco
from d2tiny.utils.errors import ConfigError
from d2tiny.utils.files import write_text

__all__ = ["predict_scenes"]

logger = logging.getLogger(__name__)


def predict_scenes(
    cfg: CfgNode, inputs: Sequence[str], output: Path, settings: RunSettings | None = None
) -> RunSummary:
    """Predict scenes: maps, pictures, pages, and one COCO json of all.

    Args:
        cfg: as from ``d2tiny.model_zoo.get_cfg``, with weights.
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
    settings = settings or RunSettings()
    started = time.monotonic()
    scenes = collect_scenes(inputs)
    output.mkdir(parents=True, exist_ok=True)
    if not os.access(output, os.W_OK | os.X_OK):
        raise ConfigError(f"--output {output}: no right to write there; choose another folder.")
    targets = scene_targets(scenes, output, settings.outputs)
    if settings.ray:
        from d2tiny.inference.ray import RayEngine

        engine: Engine = RayEngine(cfg, settings)
    else:
        engine = LocalEngine(TiledPredictor(cfg, **_predictor_options(settings)), settings.read, settings.aoi, scenes)
    record = run_record(cfg, scenes, settings)
    with ExitStack() as stack:
        stack.callback(engine.close)
        journal = stack.enter_context(Journal.open(run_folder(output, settings.shard), record, resume=settings.resume))
        run = SceneRun(journal, scenes, targets, engine, settings)
        try:
            engine.run([(n, scenes[n]) for n in record["mine"] if n not in journal.done], run)
        finally:
            run.close()
            summary = run.summary
            summary.failed = [entry["error"] for _, entry in sorted(journal.failed.items())]
            if settings.shard is None:
                _collect(output, [journal], scenes, engine.classes, settings.model, summary)
        if settings.shard is None:
            journal.clear()
    summary.seconds = time.monotonic() - started
    return summary


def _predictor_options(settings: RunSettings) -> dict[str, Any]:
    tiles = settings.tiles
    return {
        "tile": tiles.tile,
        "overlap": tiles.overlap,
        "batch": tiles.batch,
        "score": settings.score,
        "bf16": settings.bf16,
    }


def _collect(
    output: Path,
    journals: Sequence[Journal],
    scenes: Sequence[str],
    classes: Sequence[str],
    model: str,
    summary: RunSummary,
) -> None:
    """Write the COCO json of all scenes that are done, and the list of those that failed."""
    done: dict[int, Journal] = {n: journal for journal in journals for n in journal.done}
    failed: dict[int, Mapping[str, Any]] = {n: entry for journal in journals for n, entry in journal.failed.items()}
    path = output / "detections.json"
    try:
        summary.objects = _write_coco(path, done, scenes, classes, model)
    except OSError as err:
        other = Path(tempfile.mkdtemp(prefix="d2tiny-")) / path.name
        summary.objects = _write_coco(other, done, scenes, classes, model)
        summary.failed.append(f"{path}: {err.strerror or err}. The detections are in {other}; move them.")
        logger.warning("%s", summary.failed[-1])
    summary.scenes = len(done)
    list_file = output / "failed.json"
    if failed:
        entries = [{"scene": scenes[n], "error": entry["error"]} for n, entry in sorted(failed.items())]
        write_text(list_file, json.dumps(entries, indent=1, ensure_ascii=False) + "\n")
    else:
        list_file.unlink(missing_ok=True)


def _write_coco(
    path: Path, done: Mapping[int, Journal], scenes: Sequence[str], classes: Sequence[str], model: str
) -> int:
    """Write the objects of all scenes; return how many there are."""
    count = 0
    with open_coco(path, classes) as writer:
        for number, journal in sorted(done.items()):
            head = SceneHead.from_stored(journal.done[number]["head"])
            found = SceneDetections(head.scene(classes, model), *journal.kept(number))
            writer.add_scene(found.scene)
            writer.write(found)
            count += len(found)
    return count
