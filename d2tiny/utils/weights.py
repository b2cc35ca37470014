"""Strict loading of trained weights for evaluation and inference."""

from __future__ import annotations

import os

from torch import nn

from d2tiny.utils.checkpoint_files import read_checkpoint, refuse_backbone_weights
from d2tiny.utils.errors import CheckpointError

__all__ = ["OPTIONAL_WEIGHTS", "load_weights"]

# Constants of the config that older checkpoints of Detectron2 do not contain.
OPTIONAL_WEIGHTS = ("pixel_mean", "pixel_std")


def load_weights(model: nn.Module, path: str | os.PathLike[str]) -> None:
    """Load a checkpoint whose tensors must match those of the model exactly.

    Args:
        model: the model.
        path: the checkpoint, see :func:`~d2tiny.utils.checkpoint_files.read_checkpoint`.

    Raises:
        CheckpointError: the file is missing, damaged or no checkpoint, or tensors are missing, unknown or of another
            shape; the model is not modified then.
    """
    refuse_backbone_weights(path)
    state = read_checkpoint(path)["model"]
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
