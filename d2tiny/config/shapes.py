"""Interpolations of lazy configs for what follows from other keys, above all numbers of channels.

``${channels:NODE}``
    Channels of all feature maps of the backbone at NODE, which must have one width.
``${channels:NODE,LEVEL}``
    Channels of one feature map; with a list of levels, a list.
``${pixel_mean:NODE}``, ``${pixel_std:NODE}``
    Normalisation of the images that the weights of a :class:`~d2tiny.modeling.backbone.TimmBackbone` were trained with,
    wherever it stands in the backbone at NODE. It may be set, for weights from elsewhere.
``${last:LIST}``
    Last entry of a list.
``${div:NUMBER,DIVISOR}``
    NUMBER / DIVISOR, rounded down.

Example:
    A neck behind any backbone::

        neck = L(PAFPN)(in_features=["c3", "c4", "c5"], in_channels="${channels:${..backbone},${.in_features}}", ...)

The numbers come from ``output_shape()`` of the backbone itself, as Detectron2's FPN reads them, so that no config and
no other code has to know them. The backbone is built for that on PyTorch's meta device, which takes no memory and draws
no random numbers.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from detectron2.config import instantiate
from detectron2.layers import ShapeSpec
from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import InterpolationResolutionError

from d2tiny.utils.errors import ConfigError, D2TinyError, did_you_mean

__all__ = ["backbone_shape", "build_node", "error_inside", "follows", "register_resolvers"]

_PREFIXES = ("${channels:", "${last:", "${div:")  # weights of one's own may have seen other pixels
_Facts = tuple[dict[str, ShapeSpec], dict[str, list[float]]]
_CACHE: dict[str, _Facts] = {}
_CACHE_SIZE = 256


def backbone_shape(node: DictConfig) -> dict[str, ShapeSpec]:
    """Return ``output_shape()`` of the backbone that a config node describes.

    Raises:
        ConfigError: the node is no backbone, or its settings do not fit together.
    """
    return _facts(node)[0]


def _facts(node: DictConfig) -> _Facts:
    """Return the output shape of a backbone, and the normalisation of images that its weights were trained with."""
    key = repr(OmegaConf.to_container(node, resolve=True))
    if key not in _CACHE:
        try:
            with torch.device("meta"):
                backbone = instantiate(node)
            shape = backbone.output_shape()
        except D2TinyError:
            raise
        except (ValueError, TypeError, KeyError, AttributeError, AssertionError, IndexError) as err:
            raise ConfigError(f"its backbone cannot be built: {type(err).__name__}: {err}") from err
        if len(_CACHE) >= _CACHE_SIZE:
            _CACHE.clear()
        owner = next((module for module in backbone.modules() if hasattr(module, "pixel_mean")), None)
        pixels = {} if owner is None else {name: list(getattr(owner, name)) for name in ("pixel_mean", "pixel_std")}
        _CACHE[key] = shape, pixels
    return _CACHE[key]


def follows(value: Any) -> bool:
    """Return whether a raw config value is an interpolation that has one right value, so that it must not be set."""
    return isinstance(value, str) and value.startswith(_PREFIXES)


def error_inside(err: Exception) -> D2TinyError:
    """Return the error of d2tiny that OmegaConf wrapped while it resolved an interpolation, or a ConfigError.

    OmegaConf keeps it as a context only, and its own message ends in the place of the interpolation.
    """
    inner: BaseException | None = err
    while inner is not None:
        if isinstance(inner, D2TinyError):
            return inner
        inner = inner.__cause__ or inner.__context__
    return ConfigError(str(err))


def build_node(node: DictConfig) -> Any:
    """Instantiate a node of a config; errors inside its interpolations are raised as they are."""
    try:
        return instantiate(node)
    except InterpolationResolutionError as err:
        raise error_inside(err) from None


def _channels(node: Any, levels: str | Sequence[str] | None = None) -> int | list[int]:
    if not isinstance(node, DictConfig):
        raise ConfigError(f"channels: expected the config of a backbone, got {node!r}.")
    shape = backbone_shape(node)
    if levels is None:
        widths = {spec.channels for spec in shape.values()}
        if len(widths) != 1:
            raise ConfigError(f"channels: the levels of the backbone have different widths {sorted(widths)}; name one.")
        return int(widths.pop())
    names = [levels] if isinstance(levels, str) else list(levels)
    for name in names:
        if name not in shape:
            raise ConfigError(f"the backbone has no level '{name}'. {did_you_mean(name, shape)}")
    found = [int(shape[name].channels) for name in names]
    return found[0] if isinstance(levels, str) else found


def _pixels(name: str, node: Any) -> list[float]:
    found = _facts(node)[1] if isinstance(node, DictConfig) else {}
    if name not in found:
        raise ConfigError(
            f"{name}: the backbone does not name the images its weights were trained with; write numbers."
        )
    return found[name]


def _last(values: ListConfig) -> Any:
    return values[len(values) - 1]


def register_resolvers() -> None:
    """Make the interpolations known to OmegaConf; calling it again changes nothing."""
    OmegaConf.register_new_resolver("channels", _channels, replace=True)
    OmegaConf.register_new_resolver("pixel_mean", partial(_pixels, "pixel_mean"), replace=True)
    OmegaConf.register_new_resolver("pixel_std", partial(_pixels, "pixel_std"), replace=True)
    OmegaConf.register_new_resolver("last", _last, replace=True)
    OmegaConf.register_new_resolver("div", lambda number, divisor: number // divisor, replace=True)
