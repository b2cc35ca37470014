"""Strict loading of trained weights for evaluation and inference."""

from __future__ import annotations

import os
import pickle

import torch
from torch import nn

from d2tiny.utils.errors import CheckpointError

__all__ = ["OPTIONAL_WEIGHTS", "load_weights"]

# Constants of the config that older checkpoints of Detectron2 do not contain.
OPTIONAL_WEIGHTS = ("pixel_mean", "pixel_std")


def load_weights(model: nn.Module, path: str | os.PathLike[str]) -> None:
    """Load a ``.pth`` checkpoint whose tensors must match those of the model exactly.

    Args:
        model: the model.
        path: the checkpoint, a state dict or a dict with the state dict under ``model``.

    Raises:
        CheckpointError: the file is missing or unreadable, or tensors are missing, unknown or of another shape; the
            model is not modified then.
    """
    try:
        loaded = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError as err:
        raise CheckpointError(f"{path}: no such file.") from err
    except (OSError, EOFError, RuntimeError, pickle.UnpicklingError) as err:
        raise CheckpointError(f"{path}: cannot load this checkpoint: {str(err).splitlines()[0]}") from err
    state = loaded.get("model", loaded)
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
