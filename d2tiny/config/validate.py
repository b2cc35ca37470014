"""Checks of a whole lazy config before anything is built."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator, Sequence
from typing import Any

from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog
from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from d2tiny.config.signature import accepted_parameters, resolve_target, target_name
from d2tiny.utils.errors import ConfigError, did_you_mean

__all__ = ["components", "validate_config"]

_AMP_TYPES = ("float16", "bfloat16")
_TOP_LEVEL = ("model", "dataloader", "optimizer", "lr_multiplier", "train")


def validate_config(cfg: DictConfig, *, datasets: bool = True, splits: Sequence[str] = ("train", "test")) -> None:
    """Check call signatures, datasets, classes, levels and channels.

    Args:
        cfg: with the keys ``model, dataloader, optimizer, lr_multiplier, train``.
        datasets: also check that datasets are registered and have the model's classes (reads their json files).
        splits: which of ``train`` and ``test`` will be used.

    Raises:
        ConfigError: all problems, one a line, each with its full key.
    """
    problems = [f"'{key}' is missing at the top of the config." for key in _TOP_LEVEL if key not in cfg]
    problems += [
        f"'{key}' must hold keys, got {cfg[key]!r:.80}."
        for key in _TOP_LEVEL
        if key in cfg and not OmegaConf.is_missing(cfg, key) and not isinstance(cfg[key], DictConfig)
    ]
    for path, node in components(cfg):
        problems += _check_call(path, node)
    problems = problems or _check_interpolations(cfg)
    if not problems:
        problems += _check_levels(cfg) + _check_train(cfg)
    if not problems and datasets:
        problems += _check_datasets(cfg, splits)
    if problems:
        raise ConfigError("\n".join(dict.fromkeys(problems)))


def components(node: Any, path: str = "") -> Iterator[tuple[str, DictConfig]]:
    """Yield the full key and the node of every component, that is of every node with a ``_target_``, parents first.

    Interpolations are not followed.
    """
    if isinstance(node, DictConfig) and "_target_" in node:
        yield path, node
    for key, value in _entries(node):
        yield from components(value, f"{path}.{key}" if path else key)


def _entries(node: Any) -> list[tuple[str, Any]]:
    """Return keys and raw entries of a container; interpolations count as values."""
    if not isinstance(node, DictConfig | ListConfig) or node._is_interpolation() or node._is_none():
        return []
    keys = list(node.keys()) if isinstance(node, DictConfig) else range(len(node))
    return [(str(key), node._get_node(key)) for key in keys]


def _check_interpolations(node: Any, path: str = "") -> list[str]:
    """Resolve every interpolation once; a message for each that fails, and for each value that is missing."""
    problems = []
    for key, value in _entries(node):
        full = f"{path}.{key}" if path else key
        if value._is_interpolation():
            try:
                node[int(key)] if isinstance(node, ListConfig) else node[key]
            except (OmegaConfBaseException, ArithmeticError) as err:
                problems.append(f"{full}: {str(err).splitlines()[0]}")
        elif value._is_missing():
            problems.append(f"{full}: ??? stands for a value that is missing; set it.")
        else:
            problems += _check_interpolations(value, full)
    return problems


def _check_call(path: str, node: DictConfig) -> list[str]:
    try:
        target = resolve_target(node._target_, path)
    except ConfigError as err:
        return [str(err)]
    except OmegaConfBaseException as err:
        return [f"{path}._target_: {str(err).splitlines()[0]}"]
    names, open_ended = accepted_parameters(target)
    where = f"{path} ({target_name(target)})"
    given = [str(key) for key in node if key != "_target_"]
    problems = [
        f"{where}: unknown argument '{key}'. {did_you_mean(key, names)}"
        for key in given
        if key not in names and not open_ended
    ]
    problems += [
        f"{where}: argument '{name}' is missing."
        for name, parameter in names.items()
        if parameter.default is inspect.Parameter.empty and name not in given and not _from_parent(target, name)
    ]
    return problems


def _from_parent(target: Any, name: str) -> bool:
    """Whether a required parameter belongs to a base class, so that the subclass may fill it itself."""
    if not inspect.isclass(target):
        return False
    return name not in inspect.signature(target.__init__).parameters


def _select(cfg: DictConfig, key: str) -> Any:
    return OmegaConf.select(cfg, key, default=None)


def _check_train(cfg: DictConfig) -> list[str]:
    problems = []
    dtype = _select(cfg, "train.amp.dtype")
    if dtype not in _AMP_TYPES:
        problems.append(f"train.amp.dtype='{dtype}'. {did_you_mean(str(dtype), _AMP_TYPES)}")
    problems += [
        f"{key}={value} must be at least {low}."
        for key, low in (("train.max_iter", 1), ("dataloader.train.total_batch_size", 1), ("train.log_period", 1))
        if (value := _select(cfg, key)) is not None and not (_is_number(value) and value >= low)
    ]
    wanted = _select(cfg, "model.input_format")
    problems += [
        f"{key}='{value}' but model.input_format='{wanted}'. Set both to the same."
        for key in (f"dataloader.{split}.mapper.image_format" for split in ("train", "test"))
        if wanted is not None and (value := _select(cfg, key)) not in (None, wanted)
    ]
    return problems


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _check_levels(cfg: DictConfig) -> list[str]:
    key = "model.proposal_generator" if "proposal_generator" in cfg.model else "model.head"
    node = _select(cfg, key)
    if node is None or "anchor_generator" not in node:
        return []
    names = list(node.in_features if "in_features" in node else cfg.model.in_features)
    strides = list(node.anchor_generator.strides)
    if len(names) != len(strides):
        return [
            f"{key}.in_features has {len(names)} levels {names} but {key}.anchor_generator.strides has "
            f"{len(strides)}: {strides}."
        ]
    problems = _check_anchor_count(key, node)
    return problems + [
        f"{key}.anchor_generator.strides: level '{name}' has stride {2 ** int(match[1])}, not {stride}."
        for name, stride in zip(names, strides, strict=True)
        if (match := re.fullmatch(r"p(\d)", str(name))) and stride != 2 ** int(match[1])
    ]


def _check_anchor_count(key: str, node: DictConfig) -> list[str]:
    """Anchors of a cell, as the generator's arguments say, against the head's ``num_anchors``."""
    part = "net" if "net" in node else "head"
    generator, head = node.anchor_generator, node.get(part, {})
    if "aspect_ratios" not in generator or "num_anchors" not in head:
        return []

    def first(value: Any) -> int:
        inner = value[0] if len(value) and isinstance(value[0], ListConfig) else value
        return len(inner)

    count = first(generator.aspect_ratios) * (first(generator.sizes) if "sizes" in generator else 1)
    if count == head.num_anchors:
        return []
    return [f"{key}.{part}.num_anchors={head.num_anchors} but the anchor generator makes {count} a cell."]


def _num_classes(cfg: DictConfig) -> int | None:
    """Classes of a lazy model, or of the YAML inside a native one."""
    if (text := _select(cfg, "model.yaml")) is not None:
        return int(CfgNode.load_cfg(text).MODEL.ROI_HEADS.NUM_CLASSES) if text else None
    return _select(cfg, f"{_class_owner(cfg)}.num_classes")


def _class_owner(cfg: DictConfig) -> str:
    return next((f"model.{part}" for part in ("roi_heads", "head") if part in cfg.model), "model")


def _check_datasets(cfg: DictConfig, splits: Sequence[str]) -> list[str]:
    problems = []
    num_classes = _num_classes(cfg)
    key_classes = "MODEL.ROI_HEADS.NUM_CLASSES" if "yaml" in cfg.model else f"{_class_owner(cfg)}.num_classes"
    first: tuple[str, list[str]] | None = None
    for split in splits:
        key = f"dataloader.{split}.dataset.names"
        names = _select(cfg, key)
        for name in [names] if isinstance(names, str) else list(names or []):
            if name not in DatasetCatalog.list():
                hint = did_you_mean(name, DatasetCatalog.list())
                problems.append(f"{key}: dataset '{name}' is not registered. {hint}")
                continue
            if "thing_classes" not in MetadataCatalog.get(name).as_dict():
                DatasetCatalog.get(name)  # reads the classes out of the json
            classes = list(MetadataCatalog.get(name).thing_classes)
            first = first or (name, classes)
            if sorted(classes) == sorted(first[1]) and classes != first[1]:
                problems.append(
                    f"{key}: '{name}' has the classes {classes}, but '{first[0]}' has them in another order, "
                    f"{first[1]}. Register both with the same `classes`."
                )
            if num_classes is not None and len(classes) != num_classes:
                problems.append(
                    f"{key_classes}={num_classes} but dataset '{name}' has "
                    f"{len(classes)} classes. Set {key_classes}={len(classes)}."
                )
    return problems
