"""Strict loading of trained weights for evaluation and inference."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn

from d2tiny.utils.checkpoint_files import read_checkpoint, refuse_backbone_weights
from d2tiny.utils.errors import CheckpointError

__all__ = ["OPTIONAL_WEIGHTS", "adapt_state", "load_part", "load_weights", "own_weights_hidden"]

# Constants of the config that older checkpoints of Detectron2 do not contain.
OPTIONAL_WEIGHTS = ("pixel_mean", "pixel_std")


def load_weights(model: nn.Module, path: str | os.PathLike[str]) -> None:
    """Load a checkpoint whose tensors must match those of the model, but for what its modules can fit.

    Args:
        model: the model.
        path: the checkpoint, see :func:`~d2tiny.utils.checkpoint_files.read_checkpoint`.

    Raises:
        CheckpointError: the file is missing, damaged or no checkpoint, or tensors are missing, unknown or of another
            shape; the model is not modified then.
    """
    refuse_backbone_weights(path)
    state = read_checkpoint(path)["model"]
    adapt_state(model, state)
    own = model.state_dict()
    missing = [k for k in own if k not in state and k not in OPTIONAL_WEIGHTS]
    unknown = [k for k in state if k not in own]
    reshaped = [k for k in state if k in own and tuple(state[k].shape) != tuple(own[k].shape)]
    problems = [
        f"{len(names)} tensors {what} (first: {names[0]})"
        for names, what in ((missing, "are missing"), (unknown, "are unknown"), (reshaped, "have another shape"))
        if names
    ]
    if problems:
        raise CheckpointError(f"{path} does not fit the model: {', '.join(problems)}. Is it of another config?")
    model.load_state_dict(state, strict=False)


def adapt_state(model: nn.Module, state: dict[str, Any]) -> None:
    """Let modules rename or cut tensors, in place, that they can use under other names or of other sizes.

    A module with ``adapt_state(state, prefix)`` returns the names that it took. What is inside a module with the
    attribute ``own_weights`` is left alone: its weights come from elsewhere.

    Args:
        model: whose modules are asked.
        state: the checkpoint's tensors by name.
    """
    taken: set[str] = set()
    others: list[str] = []
    for name, module in model.named_modules():
        if getattr(module, "own_weights", False):
            others.append(f"{name}.")
        adapt = getattr(module, "adapt_state", None)
        if adapt is not None and not name.startswith(tuple(others)):
            taken |= adapt(state, f"{name}." if name else "") or set()
    for key in taken:
        del state[key]


@contextmanager
def own_weights_hidden(model: nn.Module) -> Iterator[None]:
    """Keep parts with ``own_weights`` out of the model's state dict, so that tensors are not renamed to theirs."""
    parts: list[Any] = [module for module in model.modules() if getattr(module, "own_weights", False)]
    for part in parts:
        part.hidden = True
    try:
        yield
    finally:
        for part in parts:
            part.hidden = False


def load_part(module: nn.Module, path: str | os.PathLike[str]) -> None:
    """Load the weights of a whole module that is part of a model, such as a pretrained backbone.

    Args:
        module: all its tensors must be in the file, by their names or as Detectron2 renames those of its model zoo.
        path: the checkpoint, see :func:`~d2tiny.utils.checkpoint_files.read_checkpoint`.

    Raises:
        CheckpointError: the file cannot be read, or lacks tensors of the module.
    """
    from detectron2.checkpoint import DetectionCheckpointer

    checkpoint = read_checkpoint(path)
    try:
        adapt_state(module, checkpoint["model"])
        found = DetectionCheckpointer(module)._load_model(checkpoint)
    except CheckpointError as err:
        raise CheckpointError(f"{path}: {err}") from err
    except Exception as err:  # renaming the tensors of other projects fails in many ways
        raise CheckpointError(f"{path}: its tensors do not fit: {type(err).__name__}: {err}") from err
    reshaped = [name for name, *_ in found.incorrect_shapes]
    missing = [name for name in (*found.missing_keys, *reshaped) if not name.endswith("num_batches_tracked")]
    if missing:
        raise CheckpointError(f"{path}: {len(missing)} tensors are missing or of another shape (first: {missing[0]}).")
