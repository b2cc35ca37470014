"""Checkpoints that are whole or absent."""

from __future__ import annotations

import os
import pickle
from pathlib import Path
from typing import Any

import torch
from detectron2.checkpoint import DetectionCheckpointer

from d2tiny.utils.errors import CheckpointError
from d2tiny.utils.files import write_text

__all__ = ["TinyCheckpointer"]


class TinyCheckpointer(DetectionCheckpointer):
    """Detectron2's checkpointer; a run killed while it saves keeps the previous file."""

    _strict = False

    def save(self, name: str, *, resumable: bool = True, **kwargs: Any) -> None:
        """Write ``{name}.pth``.

        Args:
            name: of the file, without the ending.
            resumable: also save optimizer and progress, and make it the file that ``--resume`` takes.
            **kwargs: more entries.
        """
        if not self.save_dir or not self.save_to_disk:
            return
        data = {"model": self.model.state_dict(), **kwargs}
        if resumable:
            data.update({key: obj.state_dict() for key, obj in self.checkpointables.items()})
        path = Path(self.save_dir) / f"{name}.pth"
        temporary = path.with_name(f".{path.name}.{os.getpid()}")
        try:
            torch.save(data, temporary)
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
        if resumable:
            self.tag_last_checkpoint(path.name)

    def tag_last_checkpoint(self, last_filename_basename: str) -> None:
        """Name the file that ``--resume`` takes; whole or not at all."""
        write_text(Path(self.save_dir) / "last_checkpoint", last_filename_basename)

    def load_all(self) -> None:
        """Load the checkpoint that ``--resume`` takes: model, optimizer, progress.

        Raises:
            CheckpointError: it cannot be read, or is of another config.
        """
        self._strict = True
        try:
            self.load(self.get_checkpoint_file())
        finally:
            self._strict = False

    def load(self, path: str, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """Load a checkpoint.

        Raises:
            CheckpointError: the file is missing, cannot be read, or fits no part of the model.
        """
        self._parsed_url_during_load = None  # the parent leaves it set when a load fails
        try:
            return super().load(path, *args, **kwargs)
        except (AssertionError, CheckpointError) as err:
            raise CheckpointError(f"{path}: {err}") from err
        except (OSError, EOFError, RuntimeError, pickle.UnpicklingError) as err:
            raise CheckpointError(f"{path}: cannot load this checkpoint: {err}") from err

    def _load_model(self, checkpoint: Any) -> Any:
        given = len(checkpoint["model"])
        if not self._strict:
            for name, module in self.model.named_modules():
                adapt = getattr(module, "adapt_state", None)
                if adapt is not None:  # parts that take what fits of tensors of another size
                    adapt(checkpoint["model"], f"{name}." if name else "")
        incompatible = super()._load_model(checkpoint)
        if given and len(incompatible.unexpected_keys) + len(incompatible.incorrect_shapes) >= given:
            raise CheckpointError(f"none of the checkpoint's {given} tensors fits the model; is it of another config?")
        wrong = [*incompatible.missing_keys, *incompatible.unexpected_keys, *incompatible.incorrect_shapes]
        if self._strict and wrong:
            raise CheckpointError(
                f"{len(wrong)} tensors do not fit the model (first: {wrong[0]}). The folder holds a training of "
                "another config; choose another train.output_dir, or train without --resume."
            )
        return incompatible
