"""Checkpoints that are written atomically, kept twice, and loaded strictly when training resumes."""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch
from detectron2.checkpoint import DetectionCheckpointer
from fvcore.common.checkpoint import _filter_reused_missing_keys
from torch import Tensor

from d2tiny.utils.checkpoint_files import is_finite, read_checkpoint
from d2tiny.utils.errors import CheckpointError, D2TinyError
from d2tiny.utils.files import open_atomic, write_text
from d2tiny.utils.weights import adapt_state, own_weights_hidden

__all__ = ["LAST", "PREVIOUS", "TinyCheckpointer", "common_prefixes", "resumable_files", "write_checkpoint"]

LAST = "model_last.pth"
PREVIOUS = "model_previous.pth"
_POINTER = "last_checkpoint"
_SHOWN = 20  # parts in one message
# Entries that newer versions of torch and of d2tiny added to what a checkpoint has.
_OPTIONAL_OF_GROUPS = {"maximize", "foreach", "differentiable", "fused", "capturable", "decoupled_weight_decay"}
_OPTIONAL = {"trainer.hooks.EvalAndSave.pending", "trainer.accumulated", "trainer.gradients"}
_LARGEST = 2**53  # whole numbers beyond it are no step, count or rate
_OTHER_CONFIG = (
    "The folder holds a training of another config; choose another train.output_dir, or train without --resume."
)

logger = logging.getLogger(__name__)


def write_checkpoint(path: Path, state: Mapping[str, Tensor]) -> None:
    """Write weights atomically, as :func:`~d2tiny.utils.checkpoint_files.read_checkpoint` reads them.

    Raises:
        CheckpointError: the file cannot be written, for example on a full disk.
        ConfigError: ``path`` is a folder.
    """
    with _telling_disk_errors(path, "mend that, or name another file"):
        _write(path, {"model": dict(state)})


@contextmanager
def _telling_disk_errors(path: Path, advice: str) -> Iterator[None]:
    """Turn errors of the disk into a CheckpointError; torch turns them into RuntimeErrors."""
    try:
        yield
    except D2TinyError:
        raise
    except (OSError, RuntimeError) as err:
        raise CheckpointError(
            f"{path}: cannot write this checkpoint: {err}. Free space or rights are missing; {advice}."
        ) from err


def _write(path: Path, data: Mapping[str, Any], keep_previous: bool = False) -> None:
    with open_atomic(path) as file:
        torch.save(data, file)
        file.flush()
        if keep_previous and path.exists():
            path.replace(path.with_name(PREVIOUS))


def resumable_files(folder: Path) -> list[Path]:
    """Return the checkpoints of a folder to resume from, the first choice first."""
    files = [folder / name for name in (_named(folder / _POINTER), LAST, PREVIOUS) if name]
    return [file for file in dict.fromkeys(files) if file.is_file()]


def _named(pointer: Path) -> str:
    """Return the file of this folder that ``last_checkpoint`` names; empty where it names none, and say so."""
    if not pointer.is_file():
        return ""
    name = pointer.read_bytes()[:256].decode("utf-8", "replace").strip()
    known = {file.name for file in pointer.parent.glob("*.pth")}
    if name in known:
        return name
    logger.warning("%s names %r, which is no checkpoint of this folder; it is not followed.", pointer, name)
    return ""


class TinyCheckpointer(DetectionCheckpointer):
    """Detectron2's checkpointer with atomic writes and d2tiny's reader.

    A run killed while saving keeps the previous file, and the resumable checkpoint before the last is kept too.
    """

    _strict = False
    classes: Sequence[str] = ()
    """Names of the classes, which are written with the weights, so that predictions have them."""

    def save(self, name: str, *, resumable: bool = True, keep_previous: bool = False, **kwargs: Any) -> None:
        """Write ``{name}.pth``.

        Args:
            name: file name without the suffix.
            resumable: also save the optimizer and the progress, and make ``--resume`` continue from this file.
            keep_previous: keep the file that is replaced as ``model_previous.pth``.
            **kwargs: further entries of the checkpoint.

        Raises:
            CheckpointError: the file cannot be written, for example on a full disk.
        """
        if not self.save_dir or not self.save_to_disk:
            return
        data = {"model": self.model.state_dict(), **kwargs}
        if self.classes:
            data["classes"] = list(self.classes)
        if resumable:
            data.update({key: obj.state_dict() for key, obj in self.checkpointables.items()})
        path = Path(self.save_dir) / f"{name}.pth"
        with _telling_disk_errors(path, "mend that and go on with --resume from the checkpoint before"):
            _write(path, data, keep_previous)
            if resumable:
                self.tag_last_checkpoint(path.name)

    def tag_last_checkpoint(self, last_filename_basename: str) -> None:
        """Record the file that ``--resume`` continues from, with an atomic write."""
        write_text(Path(self.save_dir) / _POINTER, last_filename_basename)

    def has_checkpoint(self) -> bool:
        """Return whether there is a checkpoint to resume from, with or without the file that names the last one."""
        return bool(resumable_files(Path(self.save_dir)))

    def resume(self) -> Path:
        """Load model, optimizer and progress from the last checkpoint, or from the one before if it is broken.

        Returns:
            The file that was loaded.

        Raises:
            CheckpointError: no checkpoint can be read, or they were written by another config.
        """
        problems = []
        for file in resumable_files(Path(self.save_dir)):
            try:
                self._resume_from(file)
            except CheckpointError as err:
                logger.warning("Cannot resume from this checkpoint: %s", err)
                problems.append(str(err))
                continue
            if problems:
                logger.warning("Going on from the checkpoint before it, %s.", file)
            return file
        raise CheckpointError("\n".join(problems) or f"{self.save_dir}: no checkpoint to resume from.")

    def _resume_from(self, file: Path) -> None:
        checkpoint = read_checkpoint(file)
        for key, part in self.checkpointables.items():
            if key not in checkpoint:
                raise CheckpointError(f"{file}: its entry '{key}' is missing: it holds weights, but no training.")
            problem = _difference(part.state_dict(), checkpoint[key], key) or _broken(checkpoint[key], key)
            if problem:
                raise CheckpointError(f"{file}: {problem}. {_OTHER_CONFIG}")
        self._strict = True
        try:
            self._apply(file, checkpoint)
        finally:
            self._strict = False
        for key, part in self.checkpointables.items():
            try:
                part.load_state_dict(checkpoint[key])
            except Exception as err:  # whatever the objects make of values that do not suit them
                raise CheckpointError(f"{file}: its entry '{key}' does not fit: {err}. {_OTHER_CONFIG}") from err

    def load(self, path: str, checkpointables: list[str] | None = None) -> dict[str, Any]:
        """Load weights into the model, as far as they fit, and the state of ``checkpointables``.

        Args:
            path: file or URL; empty loads nothing.
            checkpointables: which of the added objects to load; None loads those that the checkpoint has.

        Returns:
            Entries of the checkpoint that were not loaded into an object.

        Raises:
            CheckpointError: the file is missing, cannot be read, or none of its tensors fits the model.
        """
        if not path:
            return {}
        checkpoint = read_checkpoint(path)
        logger.info("Loading weights from %s.", path)
        self._apply(path, checkpoint)
        for key in self.checkpointables if checkpointables is None else checkpointables:
            if key in checkpoint:
                self.checkpointables[key].load_state_dict(checkpoint.pop(key))
        return checkpoint

    def _apply(self, path: str | os.PathLike[str], checkpoint: dict[str, Any]) -> None:
        """Load the entry ``model``; whatever goes wrong is told with the file."""
        try:
            incompatible = self._load_model(checkpoint)
        except CheckpointError as err:
            raise CheckpointError(f"{path}: {err}") from err
        except Exception as err:  # renaming the tensors of other projects fails in many ways
            raise CheckpointError(f"{path}: its tensors do not fit the model: {type(err).__name__}: {err}") from err
        self._log_incompatible_keys(incompatible)

    def _load_model(self, checkpoint: Any) -> Any:
        num_tensors = len(checkpoint["model"])
        if not self._strict:
            adapt_state(self.model, checkpoint["model"])
        renamed = bool(checkpoint.get("matching_heuristics"))
        with own_weights_hidden(self.model) if renamed else nullcontext():
            incompatible = super()._load_model(checkpoint)
        if num_tensors and len(incompatible.unexpected_keys) + len(incompatible.incorrect_shapes) >= num_tensors:
            raise CheckpointError(
                f"none of the checkpoint's {num_tensors} tensors fits the model; is it of another config?"
            )
        mismatched = [*incompatible.missing_keys, *incompatible.unexpected_keys, *incompatible.incorrect_shapes]
        if self._strict and mismatched:
            raise CheckpointError(
                f"{len(mismatched)} tensors do not fit the model (first: {mismatched[0]}). {_OTHER_CONFIG}"
            )
        return incompatible

    def _log_incompatible_keys(self, incompatible: Any) -> None:
        """Tell what is not loaded, by the largest parts that it is all of."""
        for key, loaded, own in incompatible.incorrect_shapes:
            logger.warning("Not loaded: %s has the shape %s in the weights and %s in the model.", key, loaded, own)
        wrong = {key for key, *_ in incompatible.incorrect_shapes}
        # A module with two names is one, and loaded if one of them is.
        absent = set(_filter_reused_missing_keys(self.model, incompatible.missing_keys)) - wrong
        state = list(self.model.state_dict())
        missing, known = [key for key in state if key in absent], [key for key in state if key not in absent]
        for keys, others, what in (
            (missing, known, "Not in the weights, keeps initial values"),
            (incompatible.unexpected_keys, state, "In the weights, but not in the model"),
        ):
            if keys:
                parts = common_prefixes(keys, others)
                rest = f" and {len(parts) - _SHOWN} more" if len(parts) > _SHOWN else ""
                logger.warning("%s: %s%s.", what, ", ".join(parts[:_SHOWN]), rest)


def common_prefixes(keys: Iterable[str], others: Iterable[str]) -> list[str]:
    """Return the shortest prefixes of names (``roi_heads.box_head``) that some keys have and none of the others has."""
    taken = {".".join(key.split(".")[:n]) for key in others for n in range(1, key.count(".") + 2)}
    prefixes: dict[str, None] = {}
    for key in keys:
        names = key.split(".")
        starts = (".".join(names[:n]) for n in range(1, len(names) + 1))
        prefixes[next((start for start in starts if start not in taken), key)] = None
    return list(prefixes)


def _difference(own: Any, loaded: Any, key: str) -> str:
    """Return how a loaded state differs in kind from the present one: an entry, a type, a length, a shape; or nothing.

    Args:
        own: the state now.
        loaded: the state of the checkpoint.
        key: dotted place of both, for the message.
    """
    if isinstance(own, Mapping):
        return _difference_of_dicts(own, loaded, key)
    if isinstance(own, list | tuple):
        if not isinstance(loaded, list | tuple) or len(loaded) != len(own):
            size = f"{len(loaded)} entries" if isinstance(loaded, list | tuple) else f"a {type(loaded).__name__}"
            return f"'{key}' has {size}, but the training {len(own)}"
        parts = (_difference(a, b, f"{key}.{i}") for i, (a, b) in enumerate(zip(own, loaded, strict=True)))
        return next(filter(None, parts), "")
    if isinstance(own, Tensor):
        fits = isinstance(loaded, Tensor) and loaded.shape == own.shape
        return "" if fits else f"'{key}' is no tensor of shape {tuple(own.shape)}"
    if own is None:
        return "" if loaded is None or isinstance(loaded, bool) else f"'{key}' is {loaded!r:.60}, and must not be set"
    for kind, accepted in ((bool, bool), (int, int), (float, int | float), (str, str)):
        if isinstance(own, kind):
            fits = isinstance(loaded, accepted) and (isinstance(own, bool) or not isinstance(loaded, bool))
            fits = fits and (not isinstance(loaded, int) or abs(loaded) < _LARGEST)
            return "" if fits else f"'{key}' is {loaded!r:.60}, not a {kind.__name__}"
    return ""


def _difference_of_dicts(own: Mapping[Any, Any], loaded: Any, key: str) -> str:
    if not isinstance(loaded, Mapping):
        return f"'{key}' is a {type(loaded).__name__}, not a dict"
    for name, value in own.items():
        place = f"{key}.{name}"
        if name not in loaded:
            if place in _OPTIONAL or (".param_groups." in place and name in _OPTIONAL_OF_GROUPS):
                continue
            return f"its entry '{place}' is missing"
        problem = _difference(value, loaded[name], place)
        if problem:
            return problem
    return ""


def _broken(state: Any, key: str) -> str:
    """Return which number or tensor of a state is NaN or infinite, or nothing; ``-inf`` is the best metric so far."""
    if isinstance(state, Mapping):
        return next(filter(None, (_broken(value, f"{key}.{name}") for name, value in state.items())), "")
    if isinstance(state, list | tuple):
        return next(filter(None, (_broken(value, f"{key}.{i}") for i, value in enumerate(state))), "")
    if isinstance(state, Tensor):
        return "" if is_finite(state) else f"'{key}' is NaN or infinite"
    broken = isinstance(state, float) and (math.isnan(state) or state == math.inf)
    return f"'{key}' is {state}" if broken else ""
