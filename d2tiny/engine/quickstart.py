"""The first impression: scenes, a short training, the AI-TOD table, pictures, a page."""

from __future__ import annotations

import logging
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from detectron2.config import LazyCall
from detectron2.data import MetadataCatalog
from detectron2.engine import DefaultPredictor
from omegaconf import DictConfig

from d2tiny import model_zoo
from d2tiny.data.coco.arrays import load_ground_truth
from d2tiny.data.coco.boxes import xywh_to_xyxy
from d2tiny.data.loading.images import read_image
from d2tiny.engine.pace import Plan, Size, choose_plan, measure_pace
from d2tiny.engine.quickstart_data import DemoData, choose_start, draw_large_scene, prepare_data
from d2tiny.engine.quickstart_page import next_commands, write_first_page
from d2tiny.engine.run import run
from d2tiny.engine.time_limit import TimeLimit
from d2tiny.evaluation import format_table, get_protocol, load_detections
from d2tiny.evaluation.report import write_report
from d2tiny.inference import OutputSettings, RunSettings, predict_scenes
from d2tiny.inference.journal import run_folder
from d2tiny.utils.env import has_fast_bf16
from d2tiny.utils.errors import ConfigError
from d2tiny.visualization import Boxes2D, side_by_side

__all__ = ["quickstart"]

MINUTES = 8.0
PICTURES = 8
SCORE = 0.4
_SCENE_VIEWS = 2.0  # px that tiles show of a scene, their overlap included, relative to its own

Pictures = list[tuple[np.ndarray[Any, Any], str]]


def _overrides(data: DemoData, run_dir: Path, start: str, plan: Plan | Size) -> list[str]:
    """Return what a training of the demo changes in its config."""
    size = plan.size if isinstance(plan, Plan) else plan
    overrides = [
        f"dataloader.train.dataset.names={data.train}",
        f"dataloader.test.dataset.names={data.val}",
        f"dataloader.train.total_batch_size={size.batch_size}",
        f"dataloader.train.mapper.augmentations.0.size=[{size.crop},{size.crop}]",
        f"model.roi_heads.num_classes={len(data.classes)}",
        f"optimizer.lr={1e-3 * (size.batch_size / 8) ** 0.5:.2g}",
        f"train.output_dir='{run_dir}'",
        f"train.amp.enabled={str(size.bf16).lower()}",
        f"train.num_threads={size.threads}",
        "train.channels_last=true",
    ]
    if start:
        overrides.append(f"train.init_checkpoint='{start}'")
    if isinstance(plan, Plan):
        overrides += [
            f"train.max_iter={plan.iterations}",
            f"lr_multiplier.warmup_iters={min(100, plan.iterations // 5)}",
        ]
    return overrides


def _pictures(cfg: Any, data: DemoData, folder: Path) -> Pictures:
    """Draw ground truth beside prediction for some validation images, spread from few to many objects."""
    predictor = DefaultPredictor(cfg)
    records = sorted((r for r in data.records if r["annotations"]), key=lambda r: len(r["annotations"]))
    chosen = [records[i] for i in np.unique(np.linspace(0, len(records) - 1, PICTURES).astype(int))] if records else []
    folder.mkdir(parents=True, exist_ok=True)
    drawn: Pictures = []
    for record in chosen:
        image = read_image(record["file_name"], "BGR")
        found = predictor(image)["instances"].to("cpu")
        found = found[found.scores >= SCORE]
        objects = [a for a in record["annotations"] if not a["iscrowd"]]
        boxes = xywh_to_xyxy(np.array([a["bbox"] for a in objects], dtype=np.float64).reshape(-1, 4))
        name = Path(record["file_name"]).name
        picture = side_by_side(
            np.ascontiguousarray(image[:, :, ::-1]),
            Boxes2D(boxes, np.array([a["category_id"] for a in objects], dtype=np.int64)),
            Boxes2D(found.pred_boxes.tensor.numpy(), found.pred_classes.numpy(), found.scores.numpy()),
            data.classes,
            name=name,
        )
        cv2.imwrite(str(folder / f"{Path(name).stem}.png"), picture[:, :, ::-1])
        drawn.append((picture, f"{name}: {len(objects)} labelled, {len(found)} found with a score of {SCORE} or more"))
    return drawn


def _report(data: DemoData, run_dir: Path, folder: Path, title: str) -> Path:
    """Write the error report of the last evaluation; returns the page."""
    metadata = MetadataCatalog.get(data.val)
    truth = load_ground_truth(Path(metadata.json_file))
    found = load_detections(run_dir / "inference" / "coco_instances_results.json", truth)
    write_report(truth, found, get_protocol("aitod"), folder, images=Path(metadata.image_root), title=title)
    return folder / "index.html"


def _scene_page(cfg: Any, image: Path, folder: Path, config: str) -> Path | None:
    """Write the viewer of a scene; returns the page, or None where the scene could not be read."""
    shutil.rmtree(run_folder(folder, None), ignore_errors=True)  # of a demo that was interrupted
    outputs = OutputSettings(formats=(), picture=False, page=True)
    predict_scenes(cfg, [str(image)], folder, RunSettings(outputs=outputs, score=SCORE, model=config, progress=False))
    return next(iter(sorted(folder.glob(f"{image.stem}*.html"))), None)


def quickstart(
    output: Path,
    data: Path | None = None,
    iterations: int = 0,
    *,
    images: Path | None = None,
    minutes: float = MINUTES,
    started: float | None = None,
    clock: Callable[[], float] = time.monotonic,
) -> dict[str, float]:
    """Train a small Faster R-CNN with RFLA from pretrained weights, and show what it finds.

    The first iterations are measured; precision, size and number of the others are chosen so that all is done in time.

    Args:
        output: folder for data, logs, checkpoints, pictures and ``index.html``.
        data: a dataset in the flat layout (``instances_{train,val}.json``, ``train/``, ``val/``), or one COCO json, of
            which every fifth image is for validation; None draws synthetic scenes.
        iterations: length of the training, whatever it takes; 0 chooses it.
        images: folder of the images of one json; None is the folder that it is in.
        minutes: in which all is to be done, where the length is chosen.
        started: value of ``clock`` from which they count; None for now.
        clock: seconds that pass.

    Returns:
        The metrics on the validation images.

    Raises:
        ConfigError: ``minutes`` is not positive, or ``iterations`` negative.
        DatasetError: the data are missing or broken.
    """
    if not minutes > 0 or iterations < 0:
        raise ConfigError(
            f"--minutes {minutes:g}, --iterations {iterations}: minutes must be above 0, neither negative."
        )
    end = (clock() if started is None else started) + 60 * minutes
    logging.getLogger("detectron2").setLevel(logging.WARNING)
    # That the layers of other classes start anew is no surprise.
    logging.getLogger("fvcore.common.checkpoint").setLevel(logging.ERROR)
    what = f"Using the images of {data}" if data else f"Drawing aerial scenes into {output / 'data'}"
    _say(f"1/4  {what}")
    prepared = prepare_data(data, images, output, limited=not iterations)
    config, start, origin = choose_start(prepared.kind)
    run_dir = output / ("run" if data is None else "run_data")
    _say("2/4  Measuring, to choose precision, size and length of the training")
    plan = _plan(prepared, config, start, run_dir, iterations, lambda: end - clock())
    chosen = [line for line in (origin, *plan.reasons, prepared.note) if line]
    for line in chosen:
        _say(f"     {line}")
    _say(f"3/4  Training {config}, {plan.iterations} iterations; log in {run_dir / 'log.txt'}")
    overrides = _overrides(prepared, run_dir, start, plan)
    cfg = model_zoo.get_config(config, overrides)
    if not iterations:
        cfg.train.hooks.append(LazyCall(TimeLimit)(seconds=max(1.0, end - clock() - plan.rest)))
    metrics = run(cfg, config_name=config, overrides=overrides)
    _say("4/4  Drawing the page")
    _show(output, prepared, config, run_dir, metrics, chosen, drawn=data is None)
    _say(f"     That took {(clock() - end) / 60 + minutes:.1f} minutes.")
    return metrics


def _plan(
    data: DemoData, config: str, start: str, run_dir: Path, iterations: int, time_left: Callable[[], float]
) -> Plan:
    """Return what to train: chosen, or as long as was asked for."""
    fast_bf16 = has_fast_bf16()
    if iterations:
        return Plan(Size(8, 160, fast_bf16), iterations, 0.0, 0.0, (f"{iterations} iterations, as asked for.",))

    def config_of(size: Size) -> DictConfig:
        return model_zoo.get_config(config, _overrides(data, run_dir, start, size))

    return choose_plan(
        lambda size: measure_pace(config_of(size)),
        time_left,
        fast_bf16=fast_bf16,
        pixels_after=data.pixels * (1 + PICTURES / max(1, len(data.records))) + _SCENE_VIEWS * _scene_pixels(data),
    )


def _scene_pixels(data: DemoData) -> int:
    return max([1600 * 1200, *(r["height"] * r["width"] for r in data.records)])


def _show(
    output: Path,
    data: DemoData,
    config: str,
    run_dir: Path,
    metrics: dict[str, float],
    chosen: list[str],
    *,
    drawn: bool,
) -> None:
    """Write pictures, report, viewer and page, and say where they are and what comes next."""
    weights = run_dir / "model_final.pth"
    cfg = model_zoo.get_cfg(weights=str(weights))  # with the config and the class names of its training
    pictures = _pictures(cfg, data, output / "pictures")
    if drawn:
        image = draw_large_scene(output / "scene")
    else:
        image = Path(max(data.records, key=lambda r: r["height"] * r["width"])["file_name"])
    frames = {}
    if (viewer := _scene_page(cfg, image, output / "scene", config)) is not None:
        text = "Read tile by tile, joined without seams. Zoom in, choose classes and scores."
        frames["A scene larger than a tile" if drawn else "An image to zoom into"] = (viewer, text)
    report = _report(data, run_dir, output / "report", config)
    frames["What it gets wrong"] = (report, "The error report of the validation images: what precision is lost to.")
    commands = next_commands(config, weights, len(data.classes), None if drawn else data.places)
    page = output / "index.html"
    write_first_page(
        page, title=f"First minutes with d2tiny: {config}", metrics=metrics, chosen=chosen, pictures=pictures,
        frames=frames, commands=commands,
    )  # fmt: skip
    _say(f"\nAI-TOD metrics on the validation images ({run_dir / 'result.json'}):\n{format_table(metrics)}")
    _say(f"\nThe page, to open in a browser: {page.resolve().as_uri()}")
    _say(f"Weights: {weights.resolve()}\n\nWhat next:")
    for text, command in commands.items():
        _say(f"  {text}\n      {command}")


def _say(text: str) -> None:
    print(text, flush=True)
