"""Train or evaluate a config, from set-up to the result file."""

from __future__ import annotations

import json
import logging
import math
import random
import subprocess
import sys
import time
import warnings
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch
from detectron2.engine import HookBase, hooks
from detectron2.evaluation import inference_on_dataset
from detectron2.solver import LRMultiplier
from detectron2.utils import comm
from detectron2.utils.events import EventStorage, TensorboardXWriter
from omegaconf import DictConfig, OmegaConf
from torch import nn

from d2tiny.compat import wrap_ddp
from d2tiny.config import config_yaml, resume_config, validate_config
from d2tiny.config.shapes import build_node
from d2tiny.data.datasets.register import class_names
from d2tiny.data.loading.loader import ResumableLoader
from d2tiny.engine.checkpoint import LAST, TinyCheckpointer, resumable_files
from d2tiny.engine.early_stopping import EarlyStopping
from d2tiny.engine.ema import ModelEMA
from d2tiny.engine.hooks import EMAHook, EvalAndSave, ProgressBar, StopHook
from d2tiny.engine.metrics import MetricsWriter
from d2tiny.engine.run_folder import CONFIG, finish_archive, prepare_folder
from d2tiny.engine.sync_norm import synchronise_norms
from d2tiny.engine.trainer import Trainer
from d2tiny.inference.tta import with_tta
from d2tiny.layers.depthwise import float32_layers
from d2tiny.utils.env import describe_hardware, has_fast_bf16, resolve_device
from d2tiny.utils.errors import CheckpointError, ConfigError, D2TinyError, did_you_mean
from d2tiny.utils.files import write_text
from d2tiny.utils.folders import lock_folder
from d2tiny.utils.logs import setup_loggers
from d2tiny.utils.precision import amp_dtype, mixed_precision, warn_of_slow_precision
from d2tiny.utils.stop import StopSignals
from d2tiny.utils.weights import load_weights

__all__ = ["Evaluation", "build", "build_model", "build_trainer", "run"]

_AMP = "train.amp.enabled=true"

logger = logging.getLogger(__name__)


def _setup(cfg: DictConfig) -> tuple[str, Path]:
    """Set seeds, threads and loggers; return the device and the output folder."""
    device = resolve_device(cfg.train.device)
    if device == "cuda" and comm.get_world_size() > 1:
        device = f"cuda:{comm.get_local_rank()}"
    output = Path(cfg.train.output_dir)
    setup_loggers(output, rank=comm.get_rank())
    seed = int(cfg.train.seed)
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)
    if cfg.train.num_threads:
        torch.set_num_threads(cfg.train.num_threads)
    return device, output


def build(cfg: DictConfig, key: str) -> Any:
    """Instantiate ``cfg[key]``; errors of the component become a :class:`ConfigError` that names the key."""
    try:
        return build_node(OmegaConf.select(cfg, key))
    except D2TinyError:
        raise
    except ValueError as err:
        raise ConfigError(f"{key}: {err}") from err
    except (OSError, ImportError):  # files; packages of an extra that is not installed
        raise
    except Exception as err:
        # Not a message about a bad value, but a crash inside the component because of unexpected settings.
        logger.debug("Traceback of the error below", exc_info=True)
        raise ConfigError(f"{key}: a component does not take its settings: {type(err).__name__}: {err}") from err


def _check_features(model: nn.Module) -> None:
    """Check that the backbone provides every feature level that the heads read."""
    backbone = getattr(model, "backbone", None)
    if backbone is None:
        return
    known = backbone.output_shape()
    readers = (("proposal_generator", "in_features"), ("roi_heads", "box_in_features"), ("", "head_in_features"))
    for name, attribute in readers:
        for level in getattr(getattr(model, name, None) if name else model, attribute, None) or ():
            if level not in known:
                key = f"model.{name}.{attribute}" if name else "model.in_features"
                raise ConfigError(f"{key}: the backbone has no level '{level}'. {did_you_mean(level, known)}")


class Evaluation:
    """Test data loader and evaluator, built once before training so that broken data are found early."""

    def __init__(self, cfg: DictConfig, device: str) -> None:
        """Build the test loader and the evaluator.

        Args:
            cfg: config with ``dataloader.test``, ``dataloader.evaluator`` and ``train.amp``.
            device: ``cpu``, ``cuda`` or ``cuda:N``, for autocast.

        Raises:
            D2TinyError: wrong settings or broken data.
        """
        self._loader = build(cfg, "dataloader.test")
        self._evaluator = build(cfg, "dataloader.evaluator")
        self._device = device
        self._amp = amp_dtype(cfg.train.amp.dtype if cfg.train.amp.enabled else None, device)
        self._tta = cfg.train.get("tta")
        with_tta(nn.Identity(), self._tta)  # wrong settings are told before a training

    def __call__(self, model: nn.Module) -> dict[str, float]:
        """Return the metrics of a model on the main process, an empty dict on the others."""
        with mixed_precision(self._device, self._amp, _AMP):
            results = inference_on_dataset(with_tta(model, self._tta), self._loader, self._evaluator)
        return dict(results.get("bbox", {})) if results else {}


def _commit() -> str:
    """Return the git commit of the checkout, with ``+`` if files have changed; ``unknown`` outside a checkout."""
    root = Path(__file__).resolve().parents[2]
    try:
        commit = subprocess.run(
            ["git", "rev-parse", "HEAD"], cwd=root, capture_output=True, text=True, check=True
        ).stdout.strip()
        dirty = subprocess.run(
            ["git", "status", "--porcelain", "-uno"], cwd=root, capture_output=True, text=True, check=True
        ).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return commit + ("+" if dirty else "")


def _write_result(path: Path, cfg: DictConfig, meta: dict[str, Any], metrics: dict[str, float], seconds: float) -> None:
    """Write the metrics with all that is needed to reproduce them."""
    record = {
        **meta,
        "seed": int(cfg.train.seed),
        "max_iter": int(cfg.train.max_iter),
        "hardware": describe_hardware(),
        "seconds": round(seconds, 1),
        "metrics": {k: None if math.isnan(v) else round(v, 3) for k, v in metrics.items()},
    }
    write_text(path, json.dumps(record, indent=1) + "\n")


def run(
    cfg: DictConfig,
    *,
    resume: bool = False,
    eval_only: bool = False,
    config_name: str = "",
    overrides: Sequence[str] = (),
) -> dict[str, float]:
    """Validate a config, build everything, train or evaluate, and write ``result.json`` (``eval.json``).

    Args:
        cfg: lazy config with ``model``, ``dataloader``, ``optimizer``, ``lr_multiplier`` and ``train``.
        resume: continue from the last checkpoint in ``train.output_dir`` if there is one.
        eval_only: load ``train.init_checkpoint`` and only evaluate.
        config_name: name of the config, for the result file.
        overrides: overrides of the config, for the result file.

    Returns:
        The metrics of the last evaluation; an empty dict on processes other than the main one.

    Raises:
        D2TinyError: invalid config, data or checkpoint, raised before anything is built where possible.
    """
    validate_config(cfg, splits=("test",) if eval_only else ("train", "test"))
    output = Path(cfg.train.output_dir)
    output.mkdir(parents=True, exist_ok=True)
    # An evaluation may write beside a training that runs.
    with nullcontext() if eval_only or not comm.is_main_process() else lock_folder(output):
        return _run(cfg, resume, eval_only, config_name, overrides)


def _run(
    cfg: DictConfig, resume: bool, eval_only: bool, config_name: str, overrides: Sequence[str]
) -> dict[str, float]:
    commit = _commit()  # of the code that runs: at the end of a long training the checkout may be another one
    device, output = _setup(cfg)
    text = config_yaml(cfg, defaults=True)  # what cannot be saved is told now
    if not eval_only and comm.is_main_process():
        finish_archive(output)
    comm.synchronize()  # the main process has moved what was to be moved
    if resume and not eval_only and resumable_files(output):
        text = resume_config(cfg, output / CONFIG)
    start_time = time.perf_counter()
    # All data are read and checked before the model is built.
    evaluation = Evaluation(cfg, device)
    loader = None if eval_only else build(cfg, "dataloader.train")
    model = build_model(cfg, device)
    parameters = sum(p.numel() for p in model.parameters())
    logger.info("Model with %.2f M parameters on %s; output in %s.", parameters / 1e6, device, output)
    _log_precision(cfg, model, device)
    if eval_only:
        metrics = _evaluate_checkpoint(cfg, model, evaluation)
        seconds = time.perf_counter() - start_time
    else:
        assert loader is not None
        metrics, seconds = _train(cfg, text, model, loader, evaluation, device, output, resume)
    if comm.is_main_process():
        meta = {
            "config": config_name,
            "overrides": list(overrides),
            "command": " ".join(["python", *sys.argv]),
            "commit": commit,
        }
        # An evaluation does not overwrite the record of a training in the same folder.
        if eval_only:
            write_text(output / f"eval_{CONFIG}", text)
        _write_result(output / ("eval.json" if eval_only else "result.json"), cfg, meta, metrics, seconds)
    return metrics


def _log_precision(cfg: DictConfig, model: nn.Module, device: str) -> None:
    """Say which precision and layout were chosen, what a faster one would be, and where mixed precision is slow."""
    layout = ", channels last" if cfg.train.channels_last else ""
    if not cfg.train.amp.enabled:
        fast = cfg.train.amp.dtype == "bfloat16" and has_fast_bf16(device)
        faster = "; train.amp.enabled=true would use this device's bfloat16" if fast else ""
        logger.info("Precision: float32%s%s.", layout, faster)
        return
    count = 0 if device.startswith("cuda") else float32_layers(model)
    rest = f"; {count} depth-wise convolutions stay in float32, which is faster on processors" if count else ""
    logger.info("Mixed precision: %s under autocast%s%s.", cfg.train.amp.dtype, layout, rest)
    warn_of_slow_precision(device, amp_dtype(cfg.train.amp.dtype, device), _AMP)


def build_model(cfg: DictConfig, device: str) -> nn.Module:
    """Build the model of a config on a device, in its memory layout; weights are not loaded."""
    layout = torch.channels_last if cfg.train.channels_last else torch.preserve_format
    model: nn.Module = build(cfg, "model")
    _check_features(model)
    if cfg.train.get("sync_bn", False) and comm.get_world_size() > 1:
        model = synchronise_norms(model, device)
    return model.to(device, memory_format=layout)  # type: ignore[call-overload]


def _evaluate_checkpoint(cfg: DictConfig, model: nn.Module, evaluation: Evaluation) -> dict[str, float]:
    if not cfg.train.init_checkpoint:
        raise ConfigError("--eval-only needs weights: train.init_checkpoint=PATH.")
    load_weights(model, cfg.train.init_checkpoint)
    return evaluation(model)


def _build_optimizer(cfg: DictConfig, model: nn.Module) -> torch.optim.Optimizer:
    cfg.optimizer.params.model = model
    try:
        return build(cfg, "optimizer")
    finally:
        cfg.optimizer.params.model = None


def build_trainer(cfg: DictConfig, model: nn.Module, device: str) -> Trainer:
    """Build the loop and the optimizer of a config for a model on a device; data and hooks are not set."""
    train = cfg.train
    return Trainer(
        wrap_ddp(model),
        _build_optimizer(cfg, model),
        seed=train.seed,
        device=device.split(":")[0],
        amp_dtype=train.amp.dtype if train.amp.enabled else None,
        clip_norm=train.clip_norm,
        accumulation=build(cfg, "train.accumulate") if "accumulate" in train else None,
    )


def _build_hooks(
    cfg: DictConfig,
    trainer: Trainer,
    begin: HookBase | None,
    evaluator: EvalAndSave,
    ema: ModelEMA | None,
    writer: MetricsWriter | None,
    signals: StopSignals,
) -> list[HookBase]:
    """Return the hooks in the order they run: timer, rate, the config's, EMA, bar, metrics, evaluation, board, stop.

    ``begin`` comes after the config's, which may refuse to train, and before all that write into the folder.
    Metrics come before the checkpoint, so that it never holds an iteration that they lack.
    """
    train = cfg.train
    # Schedules go on in iterations without a step of the optimizer too; torch takes the first of them for a mistake.
    warnings.filterwarnings("ignore", "Detected call of .lr_scheduler.step")
    scheduler = LRMultiplier(trainer.optimizer, build(cfg, "lr_multiplier"), train.max_iter)
    result: list[HookBase] = [hooks.IterationTimer(warmup_iter=1), hooks.LRScheduler(scheduler=scheduler)]
    result += [build(cfg, f"train.hooks.{i}") for i in range(len(train.get("hooks", ())))]
    if ema is not None:
        result.append(EMAHook(ema))
    result.append(ProgressBar(train.max_iter))
    if writer is None or begin is None:
        return [*result, evaluator, StopHook(signals, evaluator)]
    board = TensorboardXWriter(str(train.output_dir))
    before, after = (hooks.PeriodicWriter([one], period=train.log_period) for one in (writer, board))
    return [*result, begin, before, evaluator, after, StopHook(signals, evaluator)]


def _build_early_stopping(cfg: DictConfig, evaluator: EvalAndSave) -> EarlyStopping | None:
    patience = cfg.train.get("early_stopping", 0)
    if not patience:
        return None
    return EarlyStopping(evaluator, patience=patience, eval_period=cfg.train.eval_period)


def _train(
    cfg: DictConfig,
    text: str,
    model: nn.Module,
    loader: ResumableLoader,
    evaluation: Evaluation,
    device: str,
    output: Path,
    resume: bool,
) -> tuple[dict[str, float], float]:
    """Train from the start or the last checkpoint; return the last metrics and the seconds of training.

    ``text`` is the config as it is saved when the training begins; what is refused leaves the folder as it was.
    """
    train = cfg.train
    ema = ModelEMA(model, train.ema.decay) if train.ema.enabled else None
    checkpointer = TinyCheckpointer(model, str(output))
    checkpointer.classes = _class_names(cfg)
    trainer = build_trainer(cfg, model, device)
    checkpointer.add_checkpointable("trainer", trainer)
    if ema is not None:
        checkpointer.add_checkpointable("ema", ema)
    resuming = resume and checkpointer.has_checkpoint()
    if not resuming:
        _load_initial(checkpointer, ema, train.init_checkpoint, resume)
    # Each iteration records its own loss, so that resumed and uninterrupted runs can be compared.
    writer = MetricsWriter(output / "metrics.json") if comm.is_main_process() else None
    with StopSignals() as signals:
        evaluator = EvalAndSave(
            checkpointer,
            lambda: evaluation(model),
            eval_period=train.eval_period,
            save_period=train.checkpoint_period,
            ema=ema,
            signals=signals,
            writer=writer,
        )
        stopping = _build_early_stopping(cfg, evaluator)
        begin = hooks.CallbackHook(before_train=lambda _: _begin(output, resume, text)) if writer else None
        trainer.register_hooks([*_build_hooks(cfg, trainer, begin, evaluator, ema, writer, signals), stopping])
        start = _resume(checkpointer, trainer) if resuming else 0
        comm.synchronize()  # all have read what the main process moves when it begins
        if start >= train.max_iter or (stopping is not None and stopping.is_over(start)):
            return _finished(trainer, evaluator, evaluation, model, start, output), trainer.seconds
        trainer.set_data_iterator(loader.iter_from(start))
        trainer.train(start, train.max_iter)
    if trainer.dropped:
        counts = ", ".join(f"{n} {key.removeprefix('dropped/')}" for key, n in trainer.dropped.items())
        logger.info("Boxes that augmentation took out of training: %s.", counts)
    return evaluator.results, trainer.seconds


def _begin(output: Path, resume: bool, text: str) -> None:
    """Make the folder that of this training, and save its config, once nothing can refuse it any more."""
    prepare_folder(output, resume)
    write_text(output / CONFIG, text)


def _class_names(cfg: DictConfig) -> list[str]:
    """Return the class names of the training data; empty where they have none, or are no registered data sets."""
    names = OmegaConf.select(cfg, "dataloader.train.dataset.names")
    first = names if isinstance(names, str) or not names else names[0]
    try:
        return class_names(first) if first else []
    except D2TinyError:
        return []


def _finished(
    trainer: Trainer, evaluator: EvalAndSave, evaluation: Evaluation, model: nn.Module, start: int, output: Path
) -> dict[str, float]:
    """Evaluate a training that has no iteration left; return the metrics."""
    logger.info("Nothing to train: %s is already at iteration %d.", output, start)
    if comm.is_main_process():
        prepare_folder(output, resume=True)
    if evaluator.pending:  # it was stopped in its last evaluation
        with EventStorage(start - 1) as trainer.storage:  # it belongs to the last iteration
            evaluator.evaluate_and_save(start, is_last=True)
        return evaluator.results
    with evaluator.averaged():
        return evaluation(model)


def _resume(checkpointer: TinyCheckpointer, trainer: Trainer) -> int:
    """Load the last checkpoint; return the iteration to go on with."""
    file = checkpointer.resume()
    logger.info("Resuming at iteration %d from %s.", trainer.iter + 1, file)
    return trainer.iter + 1


def _load_initial(checkpointer: TinyCheckpointer, ema: ModelEMA | None, init_checkpoint: str, resume: bool) -> None:
    """Load the initial weights, if any; say so where a training was to be resumed."""
    if resume:
        _check_nothing_is_lost(Path(checkpointer.save_dir))
        logger.warning("--resume: %s holds no checkpoint yet; starting at iteration 0.", checkpointer.save_dir)
    if init_checkpoint:
        checkpointer.load(init_checkpoint, checkpointables=[])
        if ema is not None:
            ema.reset()


def _check_nothing_is_lost(output: Path) -> None:
    """Raise if a training that starts anew would overwrite weights.

    Raises:
        CheckpointError: the folder holds weights, but no checkpoint to resume from.
    """
    weights = sorted(file.name for file in output.glob("*.pth"))
    if weights:
        raise CheckpointError(
            f"--resume: {output} holds {', '.join(weights[:4])}, but no checkpoint to resume from ({LAST}). "
            "Start without --resume, which keeps them in a folder previous_1, or choose another train.output_dir."
        )
