"""Native YAML configs under the same trainer as lazy ones."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from detectron2.config import CfgNode, get_cfg
from detectron2.modeling import build_model
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException
from torch import nn

from d2tiny.config.defaults import add_d2tiny_config, read_key
from d2tiny.config.files import configs_root
from d2tiny.config.lazy import apply_overrides, load_config
from d2tiny.config.safe_yaml import MAX_YAML_BYTES, read_yaml
from d2tiny.utils.errors import ConfigError, did_you_mean

__all__ = ["build_yacs_model", "is_yacs", "lazy_from_yacs", "merge_yacs"]


def build_yacs_model(*, yaml: str) -> nn.Module:
    """Build the model of a dumped CfgNode through Detectron2's registries, on the CPU."""
    cfg = CfgNode.load_cfg(yaml)  # a safe loader
    cfg.MODEL.DEVICE = "cpu"
    return build_model(cfg)


def is_yacs(path: Path) -> bool:
    """Whether a config file is a native Detectron2 YAML rather than a lazy config, saved as YAML or not."""
    if path.suffix not in (".yaml", ".yml"):
        return False
    text = path.read_bytes()[:MAX_YAML_BYTES].decode("utf-8", "replace")
    keys = {line.split(":", 1)[0] for line in text.splitlines() if line and not line[0].isspace()}
    return bool(keys & {"MODEL", "_BASE_", "SOLVER", "DATASETS", "INPUT", "TEST"})


def merge_yacs(cfg: CfgNode, path: str, overrides: Sequence[str]) -> None:
    """Merge a native YAML file and ``KEY=VALUE`` overrides into ``cfg``, in place.

    Raises:
        ConfigError: unknown key, or an override without ``=``.
    """
    content = _with_base(Path(path))
    try:
        _merge_content(cfg, content)
    except (KeyError, ValueError, AssertionError, TypeError, AttributeError, SyntaxError) as err:
        message = err.args[0] if isinstance(err, KeyError) and err.args else err
        raise ConfigError(f"{path}: {message}") from err
    for override in overrides:
        key, found, value = override.partition("=")
        if not found:
            raise ConfigError(f"Cannot read override '{override}': write KEY=VALUE.")
        node = cfg
        for i, part in enumerate(key.split(".")):
            if not isinstance(node, CfgNode) or part not in node:
                place = ".".join(key.split(".")[:i])
                hint = did_you_mean(part, node if isinstance(node, CfgNode) else [])
                raise ConfigError(f"{key}: unknown key '{part}' in '{place}'. {hint}")
            node = node[part]
        try:
            cfg.merge_from_list([key, value])
        except (ValueError, AssertionError, SyntaxError, TypeError, RecursionError, MemoryError) as err:
            raise ConfigError(f"{key}: cannot take {value!r:.80}: {err}") from err


def _with_base(path: Path, above: tuple[Path, ...] = ()) -> dict[str, Any]:
    """Return what a native YAML file says, upon what its ``_BASE_`` says.

    Raises:
        ConfigError: a file that cannot be read, or that is its own base.
    """
    if path.resolve() in above:
        raise ConfigError(f"{path}: _BASE_ leads back to this file.")
    content = read_yaml(path)
    base = content.pop("_BASE_", None)
    if base is None:
        return content
    bases = base if isinstance(base, list) else [base]
    if not all(isinstance(name, str) for name in bases):
        raise ConfigError(f"{path}: _BASE_ names a file, or a list of files; got {base!r:.80}.")
    merged: dict[str, Any] = {}
    for name in bases:
        _merge_into(merged, _with_base(path.parent / Path(name).expanduser(), (*above, path.resolve())))
    _merge_into(merged, content)
    return merged


def _merge_into(below: dict[str, Any], above: dict[str, Any]) -> None:
    """Merge the keys of ``above`` into ``below``, in place."""
    for key, value in above.items():
        if isinstance(value, dict) and isinstance(below.get(key), dict):
            _merge_into(below[key], value)
        else:
            below[key] = value


def _merge_content(cfg: CfgNode, content: dict[str, Any]) -> None:
    """Merge what a file says into ``cfg``, in place, as ``merge_from_file`` does: versions are upgraded."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "config.yaml"
        file.write_text(yaml.safe_dump(content), encoding="utf-8")
        cfg.merge_from_file(str(file), allow_unsafe=False)


# Keys of a native config that the trainer does not know, and the only value that means what it does.
_FIXED = {
    "SOLVER.LR_SCHEDULER_NAME": "WarmupMultiStepLR",
    "SOLVER.WARMUP_METHOD": "linear",
    "SOLVER.BIAS_LR_FACTOR": 1.0,
    "SOLVER.REFERENCE_WORLD_SIZE": 0,
    "SOLVER.CLIP_GRADIENTS.NORM_TYPE": 2.0,
    "INPUT.CROP.ENABLED": False,
    "MODEL.LOAD_PROPOSALS": False,
    "MODEL.MASK_ON": False,
    "MODEL.KEYPOINT_ON": False,
    "TEST.AUG.ENABLED": False,
    "DATALOADER.SAMPLER_TRAIN": "TrainingSampler",
}


def _refuse_unsupported(cfg: CfgNode) -> None:
    for key, value in _FIXED.items():
        given = read_key(cfg, key)
        if given != value:
            raise ConfigError(f"{key}={given!r} has no effect in d2tiny's trainer; only {value!r} is supported here.")
    if cfg.SOLVER.CLIP_GRADIENTS.ENABLED and cfg.SOLVER.CLIP_GRADIENTS.CLIP_TYPE != "norm":
        raise ConfigError("SOLVER.CLIP_GRADIENTS.CLIP_TYPE must be 'norm' here.")
    if len(cfg.DATASETS.TEST) != 1 or not cfg.DATASETS.TRAIN:
        raise ConfigError(
            f"DATASETS: name one or more TRAIN sets and one TEST set, got {cfg.DATASETS.TRAIN}, {cfg.DATASETS.TEST}."
        )


def lazy_from_yacs(path: Path, overrides: Sequence[str]) -> DictConfig:
    """Return a lazy config that trains a native YAML config.

    The model comes from the registries as the YAML says; of the rest, ``DATASETS``, ``INPUT.FORMAT``,
    ``INPUT.{MIN,MAX}_SIZE_*`` (0 keeps the native size), ``INPUT.RANDOM_FLIP``, ``SOLVER`` (batch, SGD, steps,
    warm-up, clipping by norm, checkpoints, AMP), ``TEST.EVAL_PERIOD``, ``MODEL.WEIGHTS``, ``OUTPUT_DIR`` and ``SEED``
    are obeyed; other settings that would be ignored are refused.

    Args:
        path: the YAML file.
        overrides: ``KEY=VALUE`` of the YAML; those that start with a small letter override the lazy config
            (``train.device=cpu``).

    Raises:
        ConfigError: unknown key.
    """
    cfg = get_cfg()
    add_d2tiny_config(cfg)
    merge_yacs(cfg, str(path), [o for o in overrides if o[:1].isupper()])
    lazy = load_config(configs_root() / "common" / "native_run.py")
    _refuse_unsupported(cfg)
    try:
        _fill_in(lazy, cfg)
    except (TypeError, ValueError, KeyError, AttributeError, ArithmeticError, OmegaConfBaseException) as err:
        raise ConfigError(f"{path}: a value does not suit its key: {' '.join(str(err).split())[:300]}") from err
    return apply_overrides(lazy, [o for o in overrides if not o[:1].isupper()])


def _fill_in(lazy: DictConfig, cfg: CfgNode) -> None:
    """Set in the lazy config what the native one says, in place."""
    solver, train, loader = cfg.SOLVER, lazy.train, lazy.dataloader
    lazy.model.yaml = cfg.dump()
    flips = {"none": [], "horizontal": [True], "vertical": [False]}[cfg.INPUT.RANDOM_FLIP]
    resize_train, flip = loader.train.mapper.augmentations
    flip.horizontal, flip.vertical = flips == [True], flips == [False]
    loader.train.mapper.augmentations = [resize_train, flip] if flips else [resize_train]
    loader.train.dataset.filter_empty = cfg.DATALOADER.FILTER_EMPTY_ANNOTATIONS
    if solver.CLIP_GRADIENTS.ENABLED:
        train.clip_norm = float(solver.CLIP_GRADIENTS.CLIP_VALUE)
    lazy.optimizer.nesterov = solver.NESTEROV
    lazy.optimizer.params.weight_decay_norm = solver.WEIGHT_DECAY_NORM
    loader.train.dataset.names = list(cfg.DATASETS.TRAIN)
    loader.test.dataset.names = cfg.DATASETS.TEST[0]
    loader.train.total_batch_size = solver.IMS_PER_BATCH
    for split, short, longest in (
        ("train", cfg.INPUT.MIN_SIZE_TRAIN, cfg.INPUT.MAX_SIZE_TRAIN),
        ("test", (cfg.INPUT.MIN_SIZE_TEST,), cfg.INPUT.MAX_SIZE_TEST),
    ):
        loader[split].num_workers = cfg.DATALOADER.NUM_WORKERS
        loader[split].mapper.image_format = cfg.INPUT.FORMAT
        resize, *others = loader[split].mapper.augmentations
        resize.short_edge_length, resize.max_size = list(short), longest
        loader[split].mapper.augmentations = others if set(short) == {0} else [resize, *others]
    # Detectron2's own heads would learn ignore regions as objects.
    loader.train.mapper.ignore_regions = cfg.MODEL.ROI_HEADS.NAME.startswith("Tiny")
    train.max_iter, train.output_dir = solver.MAX_ITER, cfg.OUTPUT_DIR
    train.init_checkpoint, train.seed = cfg.MODEL.WEIGHTS, max(cfg.SEED, 0)
    train.amp.enabled = solver.AMP.ENABLED
    train.eval_period, train.checkpoint_period = cfg.TEST.EVAL_PERIOD, solver.CHECKPOINT_PERIOD
    optimizer, schedule = lazy.optimizer, lazy.lr_multiplier
    optimizer.lr, optimizer.momentum = solver.BASE_LR, solver.MOMENTUM
    optimizer.weight_decay = solver.WEIGHT_DECAY
    schedule.milestones = [step / solver.MAX_ITER for step in solver.STEPS]
    schedule.gamma, schedule.warmup_iters = solver.GAMMA, solver.WARMUP_ITERS
    schedule.warmup_factor = solver.WARMUP_FACTOR
