"""Weights of other implementations of DINO, so that fine-tuning starts from them.

Every tensor of the file is taken over or told: what has no place in the model is an error.
docs/papers/dino.md#weights-of-other-code
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from d2tiny.modeling.meta_arch.dino import TinyDINO
from d2tiny.modeling.meta_arch.dino_names import COCO_IDS, is_unused, own_name, source_of, without_twins
from d2tiny.utils.errors import CheckpointError
from d2tiny.utils.weights import adapt_state

__all__ = ["ImportedWeights", "import_weights"]

_CLASS_HEADS, _BOX_HEADS, _ENCODER_HEAD = "decoder.class_heads.", "decoder.box_heads.", "selection.class_head."
_LABELS, _CONTENT, _LEVELS = "denoising.label_embedding.weight", "selection.content.weight", "level_embed"
_ADDED = ("density.", "routing.")  # what DINO does not have
_COCO_ROWS = max(COCO_IDS) + 1  # of the official heads, one for every category id and for 0
_MEAN, _STD = [123.675, 116.28, 103.53], [58.395, 57.12, 57.375]  # ImageNet's, RGB
# What both mean by their weights, and what differs: temperature and offset of the position embedding.
_BOTH: dict[str, Any] = {
    "model.selection.base_cells": None,
    "model.selection.base_wh": 0.05,
    "model.selection.delta_unit": None,
    "model.decoder.delta_unit": None,
    "model.cell_unit": None,
    "model.decoder.look_forward_twice": True,
    # shapes do not tell these two apart: 8 × 4 and 4 × 8 are as many numbers
    "model.decoder.num_heads": 8,
    "model.decoder.num_points": 4,
    "model.encoder.num_heads": 8,
    "model.encoder.num_points": 4,
    "model.pixel_mean": _MEAN,
    "model.pixel_std": _STD,
    "model.input_format": "RGB",
}
_MEANT = {
    "detrex": _BOTH | {"model.temperature": 10000.0, "model.position_offset": -0.5},
    "official": _BOTH | {"model.temperature": 20.0, "model.position_offset": 0.0},
}


@dataclass(frozen=True)
class ImportedWeights:
    """What became of the tensors of a file.

    Attributes:
        source: ``detrex`` or ``official``.
        state: tensors under the names of the model.
        left_out: why a tensor of the file is not in ``state``, by its name there.
        notes: sentences about tensors of which a part was taken over.
        initial: names of the model's tensors that keep their initial values.
        overrides: settings under which the weights mean what they meant, as far as the model has others.
    """

    source: str
    state: dict[str, Tensor]
    left_out: dict[str, str]
    notes: list[str]
    initial: list[str]
    overrides: list[str]


def import_weights(model: TinyDINO, given: Mapping[str, Tensor]) -> ImportedWeights:
    """Give the tensors of detrex's or the official DINO the names of a model; the model is not changed.

    Heads of COCO are taken over if the model has their classes: as many, or COCO's 80 of the 91 rows that the official
    heads have for its category ids. Otherwise class heads and label embedding keep their initial values. A model
    with more content queries takes those of the weights in turn.

    Args:
        model: the detector that is to start from the weights.
        given: their tensors by name.

    Raises:
        CheckpointError: weights of something else, a tensor without a place in the model, or one of the model that
            they lack; says which settings of the model differ.
    """
    source = source_of(given)
    if source is None:
        raise CheckpointError(_unknown_source(given))
    names, left_out = _names(source, given)
    state = {own: given[name] for own, name in names.items()}
    own = model.state_dict()
    if odd := [name for name in state if state[name].ndim != own.get(name, state[name]).ndim or not state[name].ndim]:
        raise CheckpointError(f"'{names[odd[0]]}' has {state[odd[0]].ndim} dimensions, which is wrong.")
    wanted = _architecture(state) | _MEANT[source]
    notes = _drop_copies(state, own)
    if notes is None:
        wanted["model.decoder.shared_heads"] = False
    twins = len(given) - len(names) - len(left_out)
    classes, removed = _fit_classes(state, own, model.num_classes)
    left_out |= {names[name]: reason for name, reason in removed.items()}
    queries, indices = _adapt(model, state)
    left_out |= {names[name]: "it follows from the size of the windows" for name in indices}
    initial = [name for name in own if name not in state]
    differing = [f"{key}={_text(value)}" for key, value in wanted.items() if not _same(value, _current(model, key))]
    if problem := _misfit(state, own, initial):
        hint = f" The weights have other settings than the model: {' '.join(differing)}." if differing else ""
        raise CheckpointError(f"{problem}.{hint} {_backbone_hint(given, own)}")
    state = {name: value.to(own[name].dtype) for name, value in state.items()}
    told = [f"{twins} names of the file are second names of tensors"] * bool(twins) + (notes or []) + classes + queries
    return ImportedWeights(source, state, left_out, told, initial, differing)


def _unknown_source(given: Mapping[str, Tensor]) -> str:
    if _LEVELS in given and _CONTENT in given:
        return "these are weights of d2tiny already: name them in --weights, or in train.init_checkpoint."
    return (
        f"these are no weights of DINO as detrex (projects/dino) or the official code save them: of {len(given)} "
        f"tensors, the first {next(iter(given), 'none')!r}, none is 'transformer.level_embeds' or "
        "'transformer.level_embed'."
    )


def _names(source: str, given: Mapping[str, Tensor]) -> tuple[dict[str, str], dict[str, str]]:
    """Return the file's name of each of our tensors, and what is left out.

    Raises:
        CheckpointError: a name that has no place, or two tensors for one place.
    """
    heads = {name.split(".")[1] for name in map(without_twins, given) if name.startswith("bbox_embed.")}
    num_layers = len(heads) - (source == "detrex")
    projected = sum(n.startswith("input_proj.") and t.shape[-2:] == (1, 1) for n, t in given.items())
    names: dict[str, str] = {}
    left_out, unknown = {}, []
    for name in given:
        if is_unused(name):
            left_out[name] = "counters of batch normalisation are not used"
            continue
        own = own_name(source, without_twins(name), num_layers=num_layers, num_projected=projected)
        if own is None:
            unknown.append(name)
        elif own in names and not torch.equal(given[name], given[names[own]]):
            raise CheckpointError(f"'{name}' and '{names[own]}' must be the same tensor, and differ.")
        else:
            names.setdefault(own, name)
    if unknown:
        raise CheckpointError(
            f"{len(unknown)} of {len(given)} tensors have no place in TinyDINO ({', '.join(unknown[:3])}): these "
            "weights are of a variant of DINO."
        )
    return names, left_out


def _num_layers(state: Mapping[str, Tensor]) -> int:
    return 1 + max((int(name.split(".")[2]) for name in state if name.startswith(_BOX_HEADS)), default=0)


def _architecture(state: Mapping[str, Tensor]) -> dict[str, Any]:
    """Return the settings that the shapes tell."""
    encoder = {name.split(".")[2] for name in state if name.startswith("encoder.layers.")}
    inner = state.get("encoder.layers.0.feed_forward.inner.0.weight")
    levels, channels = state[_LEVELS].shape
    return {
        "model.embed_dim": channels,
        "model.encoder.num_layers": len(encoder),
        "model.encoder.num_levels": levels,
        "model.encoder.feedforward_dim": channels if inner is None else len(inner),
        "model.decoder.num_layers": _num_layers(state),
    }


def _drop_copies(state: dict[str, Tensor], own: Mapping[str, Tensor]) -> list[str] | None:
    """Where the model shares its heads, keep one of those that are equal; return notes, or None if they differ."""
    if f"{_BOX_HEADS}1.layers.0.weight" in own or _num_layers(state) == 1:
        return []
    copies = defaultdict(list)
    for name in [name for name in state if name.startswith((_CLASS_HEADS, _BOX_HEADS))]:
        _, kind, _, rest = name.split(".", 3)
        copies[kind, rest].append(name)
    if any(not torch.equal(state[name], state[names[0]]) for names in copies.values() for name in names):
        return None
    layers = _num_layers(state)
    for names in copies.values():
        for name in names[1:]:
            del state[name]
    return [f"the heads of all {layers} decoder layers are the same, and one is kept"]


def _fit_classes(
    state: dict[str, Tensor], own: Mapping[str, Tensor], num_classes: int
) -> tuple[list[str], dict[str, str]]:
    """Choose the rows of the model's classes, or remove what depends on classes.

    Returns:
        Notes about rows, and why tensors were removed.
    """
    removed, rows_of = {}, set()
    if _LABELS not in own and state.pop(_LABELS, None) is not None:
        removed[_LABELS] = "the model has no denoising"
    given = len(state.get(f"{_ENCODER_HEAD}bias", ()))
    rows = _rows(given, num_classes)
    for name in [n for n in state if n.startswith((_CLASS_HEADS, _ENCODER_HEAD)) or n == _LABELS]:
        if rows is None:
            del state[name]
            removed[name] = f"it is for {given} classes, and the model has {num_classes}"
        elif len(state[name]) > max(rows):  # those that are too short are told as misfits
            if len(state[name]) > len(rows):
                rows_of.add((len(state[name]), "the label embedding" if name == _LABELS else "each class head"))
            state[name] = state[name][rows].clone()
    kept = len(rows or ())
    return [f"{kept} of the {count} rows of {what} are the model's classes" for count, what in sorted(rows_of)], removed


def _adapt(model: TinyDINO, state: dict[str, Tensor]) -> tuple[list[str], list[str]]:
    """Let the model's parts rename and fit what they can use: a Swin of timm, content queries of another number.

    Returns:
        Notes about queries, and the names of Swin's indices, which timm works out.
    """
    given, wanted = len(state.get(_CONTENT, ())), model.selection.content.num_embeddings
    indices = [name for name in state if name.endswith(".relative_position_index")]
    adapt_state(model, state)
    how = "repeated" if given < wanted else "cut"
    fitted = [f"the model's {wanted} content queries are the weights' {given}, {how}"] * (given != wanted)
    return fitted, [name for name in indices if name not in state]


def _rows(given: int, wanted: int) -> list[int] | None:
    """Return the rows of heads for ``given`` classes that a model of ``wanted`` classes takes, or None."""
    if given == wanted:
        return list(range(given))
    return list(COCO_IDS) if (given, wanted) == (_COCO_ROWS, len(COCO_IDS)) else None


def _misfit(state: Mapping[str, Tensor], own: Mapping[str, Tensor], initial: Sequence[str]) -> str:
    """Return which tensors fit badly; empty if all do, apart from those of classes and of parts that DINO lacks."""
    expected = (_CLASS_HEADS, _ENCODER_HEAD, _LABELS, *_ADDED)
    missing = [n for n in initial if not n.startswith(expected) and not is_unused(n)]
    unknown = [n for n in state if n not in own]
    reshaped = [n for n in state if n in own and state[n].shape != own[n].shape]
    kinds = ((unknown, "have no place in the model"), (missing, "of the model are missing"))
    texts = [f"{len(names)} tensors {what} ({', '.join(names[:2])})" for names, what in kinds if names]
    if reshaped:
        first = reshaped[0]
        sizes = f"{first} is {tuple(state[first].shape)}, not {tuple(own[first].shape)}"
        texts.append(f"{len(reshaped)} tensors have another shape ({sizes})")
    return "; ".join(texts)


def _backbone_hint(given: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> str:
    kind = "Detectron2's ResNet"
    if any(".patch_embed." in name for name in given):
        kind = "a Swin, as in aitod/dino_swin_*, of the same size (model.backbone.backbone.model_name)"
        normed = any(".out_norms." in name for name in own)
        kind += "" if normed else ", with model.backbone.backbone.out_norm=true"
    return f"Their backbone is {kind}; five levels need a 5scale config."


def _current(model: TinyDINO, key: str) -> Any:
    """Return what a model has been built with."""
    selection, decoder, encoder = model.selection, model.decoder, model.encoder
    mean: Any = model.pixel_mean
    std: Any = model.pixel_std
    first: Any = encoder.layers[0] if len(encoder.layers) else None
    decoder_layer: Any = decoder.layers[0]
    return {
        "model.embed_dim": model.level_embed.shape[1],
        "model.encoder.num_layers": len(encoder.layers),
        "model.encoder.num_levels": encoder.num_levels,
        "model.encoder.feedforward_dim": None if first is None else first.feed_forward.inner[0].out_features,
        "model.decoder.num_layers": len(decoder.layers),
        "model.decoder.shared_heads": len(decoder.box_heads) == 1,
        "model.decoder.look_forward_twice": decoder.look_forward_twice,
        "model.decoder.delta_unit": decoder.delta_unit,
        "model.cell_unit": model.cell_unit,
        "model.decoder.num_heads": decoder.num_heads,
        "model.decoder.num_points": decoder_layer.cross_attention.num_points,
        "model.encoder.num_heads": None if first is None else first.attention.num_heads,
        "model.encoder.num_points": None if first is None else first.attention.num_points,
        "model.selection.base_cells": selection.base_cells,
        "model.selection.base_wh": selection.base_wh,
        "model.selection.delta_unit": selection.delta_unit,
        "model.temperature": model.position.temperature,
        "model.position_offset": model.position.offset,
        "model.pixel_mean": mean.flatten().tolist(),
        "model.pixel_std": std.flatten().tolist(),
        "model.input_format": model.input_format,
    }[key]


def _same(wanted: Any, current: Any) -> bool:
    if isinstance(wanted, list):
        return len(wanted) == len(current) and all(abs(a - b) < 1e-3 for a, b in zip(wanted, current, strict=True))
    return bool(wanted == current)


def _text(value: Any) -> str:
    """Return a value as overrides spell it."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return f"[{','.join(map(_text, value))}]" if isinstance(value, list) else f"{value}"
