"""What a model of timm gives: strides, channels, and the parameters behind each feature map."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from d2tiny.utils.errors import ConfigError

__all__ = ["STAGES", "TimmFacts", "is_nhwc", "timm_facts"]

STAGES = {"res2": 4, "res3": 8, "res4": 16, "res5": 32}  # names of Detectron2's ResNet, and their strides
_PROBE_SIZE = (96, 160)  # px, multiples of the largest stride that no model expects


@dataclass(frozen=True)
class TimmFacts:
    """What the backbone must know of a model of timm before it is built.

    Attributes:
        settings: of ``timm.create_model``.
        indices: of the feature maps, by stage.
        channels: likewise.
        modules: name of the module that each stage ends with, with ``_`` for the dot.
        used: names of the parameters that each stage's map is computed with.
        entrances: name of the first part of that module whose output is as large as the stage's map; a stage without
            such a part has none.
    """

    settings: dict[str, Any]
    indices: dict[str, int]
    channels: dict[str, int]
    modules: dict[str, str]
    used: dict[str, frozenset[str]]
    entrances: dict[str, str]


_FACTS: dict[str, TimmFacts] = {}


def timm_facts(timm: Any, model_name: str, settings: dict[str, Any], fixed_size: bool) -> TimmFacts:
    """Return facts of a model, which is built and run on the meta device: without memory and random numbers.

    Args:
        timm: the package.
        model_name: as in ``timm.list_models()``.
        settings: of ``timm.create_model``.
        fixed_size: the model refuses other sizes unless it is told not to, as Swin does.

    Raises:
        ConfigError: timm cannot build it, strides are missing, or sizes of the maps do not follow from the image's.
    """
    key = f"{model_name} {settings}"
    if key in _FACTS:
        return _FACTS[key]
    flexible = {"strict_img_size": False, "always_partition": True, **settings} if fixed_size else settings
    try:
        body, settings = _on_meta(timm, model_name, flexible), flexible
    except ConfigError as err:
        if flexible is settings or not isinstance(err.__cause__, TypeError):
            raise
        body = _on_meta(timm, model_name, settings)  # it has no such settings
    described: Any = body.feature_info
    strides = [int(stride) for stride in described.reduction()]
    if not set(STAGES.values()) <= set(strides):
        raise ConfigError(
            f"{model_name} has feature maps of strides {strides}; a pyramid needs 4, 8, 16 and 32. Plain vision "
            "transformers have one stride only; take a ResNet, ConvNeXt, Swin or EfficientNet."
        )
    places = {name: len(strides) - 1 - strides[::-1].index(stride) for name, stride in STAGES.items()}
    info, offset = described.get_dicts(), int(described.out_indices[0])
    modules = {name: str(info[place]["module"]).replace(".", "_") for name, place in places.items()}
    with _recorded_parts(body, modules) as parts:
        maps = _meta_maps(model_name, body, strides)
    first = {name: [part for part, shape in parts[name] if shape == maps[places[name]].shape] for name in places}
    _FACTS[key] = TimmFacts(
        settings=settings,
        indices={name: offset + place for name, place in places.items()},
        channels={name: int(info[place]["num_chs"]) for name, place in places.items()},
        modules=modules,
        used={name: _parameters_of(body, maps[place]) for name, place in places.items()},
        entrances={name: found[0] for name, found in first.items() if found},
    )
    return _FACTS[key]


def _on_meta(timm: Any, model_name: str, settings: dict[str, Any]) -> Any:
    try:
        with torch.device("meta"):
            body = timm.create_model(model_name, pretrained=False, features_only=True, **settings)
    except (TypeError, RuntimeError, AssertionError, ValueError, NotImplementedError) as err:
        raise ConfigError(f"{model_name}: timm cannot build it as a backbone: {err}") from err
    return body.eval()


@contextmanager
def _recorded_parts(body: nn.Module, modules: dict[str, str]) -> Iterator[dict[str, list[tuple[str, torch.Size]]]]:
    """Record names and output shapes of the parts of each stage's module, in the order in which they run."""
    parts: dict[str, list[tuple[str, torch.Size]]] = {stage: [] for stage in modules}
    stage_of, hooks = {module: stage for stage, module in modules.items()}, []

    def record(stage: str, name: str, output: Any) -> None:
        if isinstance(output, Tensor):
            parts[stage].append((name, output.shape))

    for path, module in body.named_modules():
        stage = stage_of.get(path.replace(".", "_"), "")
        for name, part in module.named_children() if stage else ():
            hook = partial(record, stage, f"{path}.{name}")
            hooks.append(part.register_forward_hook(lambda _, __, output, hook=hook: hook(output)))
    try:
        yield parts
    finally:
        for handle in hooks:
            handle.remove()


def _meta_maps(model_name: str, body: nn.Module, strides: list[int]) -> list[Tensor]:
    """Return the feature maps of an image on the meta device, all of the right size.

    Raises:
        ConfigError: the model takes images of one size only, or its maps are smaller than the image's size / stride.
    """
    height, width = _PROBE_SIZE
    axes = (1, 2) if is_nhwc(body) else (2, 3)
    try:
        maps: list[Tensor] = body(torch.empty(1, 3, height, width, device="meta"))
    except (RuntimeError, AssertionError, ValueError, NotImplementedError) as err:
        text = str(err).partition("\n")[0][:200]
        raise ConfigError(f"{model_name} does not take images of every size, such as {height}x{width}: {text}") from err
    for stride, x in zip(strides, maps, strict=True):
        if (found := tuple(x.shape[axis] for axis in axes)) != (height // stride, width // stride):
            raise ConfigError(
                f"{model_name}: its map of stride {stride} has {found} places for an image of {height}x{width}, which "
                "no pyramid can join; take another model."
            )
    return maps


def _parameters_of(body: nn.Module, output: Tensor) -> frozenset[str]:
    """Return the names of the parameters that a tensor is computed with, by its graph."""
    names = {id(parameter): name for name, parameter in body.named_parameters()}
    found, seen, stack = set(), set(), [output.grad_fn]
    while stack:
        node = stack.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        variable = getattr(node, "variable", None)  # of the node that accumulates a gradient
        if variable is not None and id(variable) in names:
            found.add(names[id(variable)])
        stack += [parent for parent, _ in node.next_functions]
    return frozenset(found)


def is_nhwc(body: nn.Module) -> bool:
    """Return whether the maps of a model are (B, H, W, C)."""
    return str(getattr(body, "output_fmt", "NCHW")).endswith("NHWC")
