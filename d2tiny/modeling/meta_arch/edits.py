"""Edits of a ``CfgNode`` that the model of a lazy config would ignore."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from detectron2.config import CfgNode, get_cfg
from omegaconf import DictConfig, OmegaConf

from d2tiny.config.defaults import add_d2tiny_config, read_key
from d2tiny.utils.errors import ConfigError

__all__ = ["refuse_ignored_edits"]

# Read by others than the model. The last is set for every model by Detectron2's demo, and no model here is panoptic.
_READ_ELSEWHERE = (
    "MODEL.META_ARCHITECTURE",
    "MODEL.WEIGHTS",
    "MODEL.DEVICE",
    "MODEL.PANOPTIC_FPN.COMBINE.INSTANCES_CONFIDENCE_THRESH",
)
# Where lazy configs have what keys with these beginnings mean.
_WHERE = {
    "MODEL.PIXEL_MEAN": "model.pixel_mean",
    "MODEL.PIXEL_STD": "model.pixel_std",
    "MODEL.ANCHOR_GENERATOR": "model.proposal_generator.anchor_generator",
    "MODEL.RPN": "model.proposal_generator",
    "MODEL.ROI_": "model.roi_heads",
    "MODEL.RETINANET": "model.head",
    "MODEL.BACKBONE": "model.backbone",
    "MODEL.RESNETS": "model.backbone",
    "MODEL.FPN": "model.backbone",
    "INPUT.FORMAT": "dataloader.test.mapper.image_format",
}


def refuse_ignored_edits(cfg: CfgNode, lazy: DictConfig, shared: Mapping[str, str | None]) -> None:
    """Refuse a ``CfgNode`` in which keys were edited that the model of its lazy config does not read.

    Args:
        cfg: of ``d2tiny.model_zoo.get_cfg``, perhaps edited.
        lazy: the lazy config that it names.
        shared: keys that models read, with the place of the setting in the lazy config; None if this model has none.

    Raises:
        ConfigError: there are such edits; names them and where the first one's setting is.
    """
    default = get_cfg()
    add_d2tiny_config(default)
    default.INPUT.FORMAT = OmegaConf.select(lazy, "dataloader.test.mapper.image_format") or cfg.INPUT.FORMAT
    obeyed = {key for key, path in shared.items() if path is not None}
    added = {key for key in _leaves(cfg.MODEL, "MODEL") if _has(default, key.rpartition(".")[0])}  # in known sections
    keys = {*_leaves(default.MODEL, "MODEL"), *added, "INPUT.FORMAT", *shared} - obeyed - set(_READ_ELSEWHERE)
    edited = [key for key in sorted(keys) if _is_edited(cfg, default, key)]
    if edited:
        more = f" (and {len(edited) - 1} more: {', '.join(edited[1:6])})" if len(edited) > 1 else ""
        raise ConfigError(
            f"{edited[0]}={read_key(cfg, edited[0])!r}{more} has no effect: the model is built from the lazy config "
            f"{cfg.D2TINY.LAZY_CONFIG}, which does not read this key. {_advice(edited[0], lazy, shared)} "
            f"Of the keys of the model these can be edited: {', '.join(sorted(obeyed | set(_READ_ELSEWHERE[1:3])))}."
        )


def _advice(key: str, lazy: DictConfig, shared: Mapping[str, str | None]) -> str:
    """Return what to do instead of editing a key."""
    twin = key.replace("MODEL.RETINANET.", "MODEL.ROI_HEADS.")
    if shared.get(twin) is not None:
        return f"Edit {twin}, which means this for every model."
    if key in shared:
        return "This model has no such setting."
    where = next((path for start, path in _WHERE.items() if key.startswith(start)), "model")
    where = where if OmegaConf.select(lazy, where) is not None else "model"
    given = where if key in _WHERE else f"{where}.<name>"
    return f"Override '{where}' of the lazy config: get_cfg(name, overrides=['{given}=<value>'])."


def _is_edited(cfg: CfgNode, default: CfgNode, key: str) -> bool:
    """Return whether a key has another value than by default, or is not known at all."""
    if not _has(cfg, key):
        return False
    # Applications that know no model set the key of RetinaNet and that of R-CNN to the same value.
    twin = key.replace("MODEL.RETINANET.", "MODEL.ROI_HEADS.")
    if twin != key and _has(cfg, twin) and _plain(cfg, twin) == _plain(cfg, key):
        return False
    return not _has(default, key) or _plain(cfg, key) != _plain(default, key)


def _leaves(node: CfgNode, prefix: str) -> Iterator[str]:
    """Yield the dotted keys of a config that are no nodes themselves."""
    for name, value in node.items():
        key = f"{prefix}.{name}"
        if isinstance(value, CfgNode):
            yield from _leaves(value, key)
        else:
            yield key


def _has(cfg: CfgNode, key: str) -> bool:
    """Return whether a config has a dotted key."""
    for part in key.split("."):
        if not isinstance(cfg, CfgNode) or part not in cfg:
            return False
        cfg = cfg[part]
    return True


def _plain(cfg: CfgNode, key: str) -> object:
    """Return the value of a key with tuples as lists, because yacs takes either."""

    def as_lists(value: object) -> object:
        return [as_lists(v) for v in value] if isinstance(value, list | tuple) else value

    return as_lists(read_key(cfg, key))
