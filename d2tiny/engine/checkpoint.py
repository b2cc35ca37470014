"""Checkpoints that are written atomically and loaded strictly when training resumes."""

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
    """Detectron2's checkpointer with atomic writes: a run killed while saving keeps the previous file."""

    _strict = False

    def save(self, name: str, *, resumable: bool = True, **kwargs: Any) -> None:
        """Write ``{name}.pth``.

        Args:
            name: file name without the suffix.
            resumable: also save the optimizer and the progress, and make ``--resume`` continue from this file.
            **kwargs: further entries of the checkpoint.
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
        """Record the file that ``--resume`` continues from, with an atomic write."""
        write_text(Path(self.save_dir) / "last_checkpoint", last_filename_basename)

    def resume(self) -> None:
        """Load model, optimizer and progress from the last resumable checkpoint.

        Raises:
            CheckpointError: the checkpoint cannot be read or was written by another config.
        """
        self._strict = True
        try:
            self.load(self.get_checkpoint_file())
        finally:
            self._strict = False

    def load(self, path: str, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """Load a checkpoint into the model and, unless ``checkpointables`` says otherwise, optimizer and progress.

        Args:
            path: file or URL; empty loads nothing.
            *args: passed on to Detectron2's checkpointer.
            **kwargs: passed on to Detectron2's checkpointer.

        Returns:
            Entries of the checkpoint that were not loaded into an object.

        Raises:
            CheckpointError: the file is missing, cannot be read, or none of its tensors fits the model.
        """
        self._parsed_url_during_load = None  # the base class does not reset it when a load fails
        try:
            return super().load(path, *args, **kwargs)
        except (AssertionError, CheckpointError) as err:
            raise CheckpointError(f"{path}: {err}") from err
        except (OSError, EOFError, RuntimeError, pickle.UnpicklingError) as err:
            raise CheckpointError(f"{path}: cannot load this checkpoint: {err}") from err

    def _load_model(self, checkpoint: Any) -> Any:
        num_tensors = len(checkpoint["model"])
        if not self._strict:
            for name, module in self.model.named_modules():
                adapt = getattr(module, "adapt_state", None)
                if adapt is not None:  # modules that can reuse part of a tensor of another size
                    adapt(checkpoint["model"], f"{name}." if name else "")
        incompatible = super()._load_model(checkpoint)
        if num_tensors and len(incompatible.unexpected_keys) + len(incompatible.incorrect_shapes) >= num_tensors:
            raise CheckpointError(
                f"none of the checkpoint's {num_tensors} tensors fits the model; is it of another config?"
            )
        mismatched = [*incompatible.missing_keys, *incompatible.unexpected_keys, *incompatible.incorrect_shapes]
        if self._strict and mismatched:
            raise CheckpointError(
                f"{len(mismatched)} tensors do not fit the model (first: {mismatched[0]}). The folder holds a "
                "training of another config; choose another train.output_dir, or train without --resume."
            )
        return incompatible
