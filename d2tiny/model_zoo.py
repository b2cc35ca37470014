"""All experiments by name.

Example:
    >>> from d2tiny import model_zoo
    >>> model_zoo.list_configs("quick/dino_r18*")
    ['quick/dino_r18', 'quick/dino_r18_dgq', 'quick/dino_r18_rem']
"""

from __future__ import annotations

import fnmatch
import logging
import os
from collections.abc import Sequence
from typing import Any

from detectron2.config import CfgNode
from detectron2.config import get_cfg as _detectron2_cfg
from omegaconf import DictConfig, OmegaConf

from d2tiny.config.defaults import add_d2tiny_config, read_key
from d2tiny.config.files import config_names, find_config
from d2tiny.config.lazy import load_config
from d2tiny.config.native import is_yacs, merge_yacs
from d2tiny.config.published import config_beside, find_published, offers
from d2tiny.modeling.meta_arch.lazy import SHARED_KEYS, shared_path
from d2tiny.utils.checkpoint_files import check_checkpoint
from d2tiny.utils.env import resolve_device
from d2tiny.utils.errors import ConfigError

__all__ = ["get_cfg", "get_config", "list_configs"]

logger = logging.getLogger(__name__)


def list_configs(pattern: str = "*") -> list[str]:
    """Return the zoo names that match a glob, for example ``aitod/*``."""
    return [name for name in config_names() if fnmatch.fnmatch(name, pattern)]


def get_config(name: str | os.PathLike[str], overrides: Sequence[str] = ()) -> DictConfig:
    """Return a lazy config of the zoo (or of a path), strict against unknown keys.

    Raises:
        ConfigError: unknown name or bad override.
    """
    config = find_config(name)
    if is_yacs(config.path):
        raise ConfigError(f"'{name}' is a native YAML config; use get_cfg.")
    return load_config(config, overrides)


def get_cfg(
    name: str | os.PathLike[str] | None = None,
    weights: str | os.PathLike[str] | None = None,
    overrides: Sequence[str] = (),
    device: str = "auto",
    *,
    place: str = "",
) -> CfgNode:
    """Return a CfgNode for ``DefaultPredictor`` and everything else that wants one.

    Args:
        name: zoo name or path, lazy or native YAML; None takes the config of the weights: of published ones, or the
            ``config.yaml`` that their training left beside them.
        weights: what to predict with.

            - None takes the published weights of the config (without a config, the default ones), and says so in the
              log; where none are published, the model predicts at random, with a warning.
            - A file or a URL that Detectron2 knows.
            - ``d2tiny://NAME`` or NAME, published weights (``d2tiny zoo --published``).
            - ``""`` takes none: the model predicts at random, for example to be trained.
        overrides: ``key=value`` of the lazy config; ``KEY=VALUE`` of a YAML config.
        device: ``auto``, ``cpu`` or ``cuda``.
        place: folder or URL of published weights, asked before those of d2tiny; default: ``D2TINY_WEIGHTS``.

    Returns:
        The config; ``MODEL.WEIGHTS`` is a local file. ``D2TINY.CLASSES`` has the class names of published
        weights, or of the training that wrote them.

    Raises:
        ConfigError: unknown name, bad override, no config and weights that are not published.
        CheckpointError: no such weights, or a file that is damaged or no checkpoint: Detectron2 would run what a pickle
            names, so that the file is read here first.
    """
    published = find_published(name, weights, place)
    if name is None:
        name = published.config if published is not None else config_beside(weights)
        if name is None:
            raise ConfigError(f"get_cfg needs the name of a config for weights={weights!r}. {offers(place)}".rstrip())
    config = find_config(name)
    known: tuple[str, ...] = ()
    if published is not None:
        weights = published.local_file()
        logger.info("%s: weights %s, %s.", config.name, published.url, published.title)
    weights = os.fspath(weights or "")
    if weights:
        known = check_checkpoint(weights)
    else:
        logger.warning("%s: no weights given, so predictions will be random.", config.name)
    cfg = _detectron2_cfg()
    add_d2tiny_config(cfg)
    cfg.MODEL.DEVICE = resolve_device(device)
    if is_yacs(config.path):
        merge_yacs(cfg, str(config.path), overrides)
    else:
        _point_at_lazy(cfg, str(config._replace(path=config.path.resolve())), list(overrides))
    cfg.MODEL.WEIGHTS = weights
    if published is not None:
        known = published.classes
    cfg.D2TINY.CLASSES = list(known) if len(known) == cfg.MODEL.ROI_HEADS.NUM_CLASSES else []
    return cfg


def _point_at_lazy(cfg: CfgNode, path: str, overrides: list[str]) -> None:
    lazy = load_config(path, overrides)
    cfg.MODEL.META_ARCHITECTURE = "LazyModel"
    cfg.D2TINY.LAZY_CONFIG = path
    cfg.D2TINY.LAZY_OVERRIDES = overrides
    for key in SHARED_KEYS:
        source = shared_path(lazy, key)
        if source is not None:
            number: Any = type(read_key(cfg, key))
            cfg.merge_from_list([key, number(OmegaConf.select(lazy, source))])
    cfg.INPUT.FORMAT = lazy.dataloader.test.mapper.image_format
    # 0 keeps an image at its native size; tests resize only where the config's mapper does.
    cfg.INPUT.MIN_SIZE_TEST, cfg.INPUT.MAX_SIZE_TEST = 0, 100_000
    for augmentation in lazy.dataloader.test.mapper.augmentations:
        if "short_edge_length" in augmentation:
            cfg.INPUT.MIN_SIZE_TEST = int(augmentation.short_edge_length)
            cfg.INPUT.MAX_SIZE_TEST = int(augmentation.get("max_size", 100_000))
    train, test = lazy.dataloader.train.dataset.names, lazy.dataloader.test.dataset.names
    cfg.DATASETS.TRAIN = (train,) if isinstance(train, str) else tuple(train)
    cfg.DATASETS.TEST = (test,) if isinstance(test, str) else tuple(test)
