"""The one reader of checkpoints. Nothing in a file is run; damaged files are told apart from those of another kind."""

from __future__ import annotations

import argparse
import os
import re
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from d2tiny.utils.errors import CheckpointError
from d2tiny.utils.numpy_pickle import read_array_pickle
from d2tiny.utils.published import named_weights
from d2tiny.utils.timm_weights import is_timm_url, read_timm_weights

__all__ = ["check_checkpoint", "is_finite", "read_checkpoint", "refuse_backbone_weights"]

_CHUNK = 1 << 20  # bytes
_CONTENTS = "its table of contents"
_TEXT = bytes(range(32, 127)) + b"\t\r\n"
# What files of other kinds begin with.
_OTHERS = {
    b"\x89PNG": "an image",
    b"\xff\xd8\xff": "an image",
    b"\x1f\x8b": "a gzip archive",
    b"\x89HDF": "an HDF5 file, as Keras writes them",
    b"\x93NUMPY": "an array of numpy",
    b"\xff\xfe": "a text file (UTF-16)",
}
_WRAPPERS = ("module.", "_orig_mod.")  # prefixes of DistributedDataParallel and torch.compile
_CHECKED: dict[tuple[Path, Any], tuple[str, ...]] = {}
_RESAVE = "Where you trust it, save its weights anew: torch.save({'model': model.state_dict()}, 'weights.pth')."


def read_checkpoint(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Read a checkpoint and check all that can be checked without the model.

    The file is a ``.pth`` of ``torch.save`` (a state dict, or a dict with it under ``model``), a ``.pkl`` of numpy
    arrays, as Detectron2's model zoo has, or a ``.pyth`` of pycls. Prefixes ``module.`` and ``_orig_mod.`` of all names
    are removed. The checksums of the file are compared, and only tensors and plain containers are read.

    Args:
        path: the file, a URL that Detectron2 knows, ``timm://NAME``, ImageNet weights of a model of timm, or
            ``d2tiny://NAME``, published weights, whose file must have the checksum that their manifest states (NAME
            alone where no file has that name).

    Returns:
        The entries of the checkpoint; ``model`` has the tensors by name. Files of other projects have
        ``matching_heuristics`` and ``__author__``, as Detectron2 reads them.

    Raises:
        CheckpointError: there is no such file, or it is empty, damaged, no checkpoint, or has NaN or infinite weights;
            says which.
    """
    if is_timm_url(text := os.fspath(path)):
        return {"model": read_timm_weights(text, lambda file: read_checkpoint(file)["model"])}
    path, heuristics = _local_file(text)
    start = _first_bytes(path)
    if path.suffix == ".pkl":
        if start[:2] == b"PK":
            raise CheckpointError(f"{path}: a file of torch.save; rename it to {path.with_suffix('.pth').name}.")
        checkpoint = _of_zoo(path, read_array_pickle(path))
    else:
        if start[:2] == b"PK":
            _check_zip(path)
        checkpoint = _entries(path, _torch_load(path, start))
    checkpoint["model"] = _weights(path, checkpoint["model"])
    if heuristics:
        checkpoint["matching_heuristics"] = True
    return checkpoint


def check_checkpoint(path: str | os.PathLike[str]) -> tuple[str, ...]:
    """Check a file that Detectron2 will read by its own means; a file that was checked before is not read again.

    Returns:
        The names of the classes that a training of d2tiny wrote with the weights; empty for others.

    Raises:
        CheckpointError: as :func:`read_checkpoint`.
    """
    refuse_backbone_weights(path)
    file, _ = _local_file(os.fspath(path))
    status = file.stat() if file.is_file() else None
    key = (file.resolve(), status and (status.st_mtime_ns, status.st_size, status.st_ino))
    if key not in _CHECKED:
        _CHECKED[key] = _class_names(read_checkpoint(path).get("classes"))
    return _CHECKED[key]


def _class_names(value: Any) -> tuple[str, ...]:
    """Return the entry ``classes`` of a checkpoint; empty where it is something else."""
    is_list = isinstance(value, list | tuple) and all(isinstance(name, str) for name in value)
    return tuple(value) if is_list else ()


def refuse_backbone_weights(path: str | os.PathLike[str]) -> None:
    """Raise CheckpointError where the weights of a whole detector are needed, and these are of a backbone."""
    if is_timm_url(os.fspath(path)):
        raise CheckpointError(f"{path}: these are weights of a backbone, not of a detector; train it first.")


def _local_file(text: str) -> tuple[Path, bool]:
    """Return the file of a path or URL, fetched where necessary, and whether the URL asks for matching by heuristics.

    Raises:
        CheckpointError: the URL cannot be fetched.
    """
    if (published := named_weights(text)) is not None:
        return published.local_file(), False
    if "://" not in text:
        return Path(text), False
    from detectron2.checkpoint import catalog  # noqa: F401  knows detectron2://
    from detectron2.utils.file_io import PathManager

    url = text.removesuffix("?matching_heuristics=True")
    try:
        return Path(PathManager.get_local_path(url)), url != text
    except Exception as err:  # whatever the network and the handlers of URLs raise
        raise CheckpointError(f"{text}: cannot fetch this file: {err}") from err


def _first_bytes(path: Path) -> bytes:
    """Return the beginning of a file that exists, is a regular file and is not empty."""
    try:
        if not path.exists():
            raise CheckpointError(f"{path}: no such file.")
        if not path.is_file():
            what = "a folder" if path.is_dir() else "not a regular file"
            raise CheckpointError(f"{path} is {what}; name a checkpoint, for example model_final.pth.")
        with path.open("rb") as file:
            start = file.read(512)
    except OSError as err:  # also a name that is too long
        raise CheckpointError(f"{path}: cannot read this file: {err.strerror}.") from err
    if not start:
        raise CheckpointError(f"{path} is empty (0 bytes): it was cut off when it was written or copied.")
    return start


def _check_zip(path: Path) -> None:
    """Compare the checksums of all records of a file of ``torch.save``, which torch itself does not.

    Raises:
        CheckpointError: a record is damaged or missing.
    """
    record = _CONTENTS
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
            if any(name.endswith("/constants.pkl") for name in names):
                raise CheckpointError(f"{path}: this is a TorchScript program, not a checkpoint. {_RESAVE}")
            if not any(name.endswith("/data.pkl") for name in names):
                raise CheckpointError(f"{path}: this archive ({', '.join(names[:3])}) was not written by torch.save.")
            for info in archive.infolist():
                record = info.filename
                if info.compress_type != zipfile.ZIP_STORED:
                    raise CheckpointError(f"{path}: {record} is compressed, which torch.save never does.")
                with archive.open(info) as file:
                    while file.read(_CHUNK):
                        pass
    except CheckpointError:
        raise
    except Exception as err:  # a damaged archive raises a dozen kinds of errors
        if record == _CONTENTS and "not a zip file" in str(err):
            raise CheckpointError(f"{path} is damaged: its end is missing. Copy it again, or take another.") from err
        raise CheckpointError(
            f"{path} is damaged: {record} does not have its checksum ({type(err).__name__}: {err}). "
            "Copy it again, or take another checkpoint."
        ) from err


def _torch_load(path: Path, start: bytes) -> Any:
    torch.serialization.add_safe_globals([argparse.Namespace])  # a container; the DETR family saves its options so
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as err:  # torch raises nearly every kind of error on files that are no checkpoints
        raise CheckpointError(f"{path}: {_reason(str(err), start)}") from err


def _reason(message: str, start: bytes) -> str:
    """Return in one sentence why torch refused a file."""
    named = re.search(r"GLOBAL (\S+)|Unsupported class (\S+)", message)
    if named:
        name = (named[1] or named[2]).rstrip(".")
        return f"it names {name} besides tensors, and was not read, because such a file can run code. {_RESAVE}"
    if all(byte in _TEXT for byte in start):
        return f"this is a text file ({start[:30].decode('ascii')!r}), not a checkpoint."
    if other := _other_kind(message, start):
        return f"this is {other}, not a checkpoint of torch.save."
    detail = message.rpartition("WeightsUnpickler error:")[2].strip() or "no reason given"
    return f"this is no checkpoint of torch.save, or a damaged one: {detail.splitlines()[0][:200]}"


def _other_kind(message: str, start: bytes) -> str:
    """Return what a file is that torch cannot read, from how it begins; empty if that is unknown."""
    if not any(start):
        return "a file of zeros, cut off when it was written or copied"
    if start[8:9] == b"{" and int.from_bytes(start[:8], "little") < 100_000_000:
        return "a safetensors file (torch.save(safetensors.torch.load_file(FILE), 'weights.pth') converts it)"
    if ".tar format" in message:
        return "a tar archive, perhaps of a version of PyTorch before 0.1.10"
    if start[0] == 0x80 and start[1] > 2:
        return f"a pickle of protocol {start[1]}"
    return next((kind for magic, kind in _OTHERS.items() if start.startswith(magic)), "")


def _of_zoo(path: Path, content: dict[str, Any]) -> dict[str, Any]:
    """Return the entries of a ``.pkl`` as Detectron2 does: its own, or Caffe2's."""
    if "model" in content and "__author__" in content:
        return {"matching_heuristics": False, **content}
    blobs = content.get("blobs", content)
    if not isinstance(blobs, dict):
        raise CheckpointError(f"{path}: its entry 'blobs' is a {type(blobs).__name__}, not a dict of arrays.")
    model = {key: value for key, value in blobs.items() if not str(key).endswith("_momentum")}
    return {"model": model, "__author__": "Caffe2", "matching_heuristics": True}


def _entries(path: Path, loaded: Any) -> dict[str, Any]:
    """Return the entries of what torch loaded, with the weights under ``model``."""
    if not isinstance(loaded, Mapping):
        raise CheckpointError(f"{path}: holds a {type(loaded).__name__}, not a dict of weights. {_RESAVE}")
    if path.suffix == ".pyth" and isinstance(loaded.get("model_state"), Mapping):
        state = {k: v for k, v in loaded["model_state"].items() if not str(k).endswith("num_batches_tracked")}
        return {"model": state, "__author__": "pycls", "matching_heuristics": True}
    elsewhere = next((key for key, value in loaded.items() if key != "model" and _is_state(value)), None)
    if "model" in loaded and (elsewhere is None or isinstance(loaded["model"], Mapping)):
        return dict(loaded)
    if _is_state(loaded):
        return {"model": loaded}
    keys = ", ".join(repr(key) for key in list(loaded)[:6]) or "nothing"
    if elsewhere is not None:
        why = ", as checkpoints of MMDetection or Lightning do; their tensors have other names" * (
            elsewhere == "state_dict"
        )
        raise CheckpointError(
            f"{path}: holds {keys}{why}. The tensors are under {elsewhere!r}. If they fit, save them as d2tiny reads "
            f"them: torch.save({{'model': torch.load(FILE)[{elsewhere!r}]}}, 'weights.pth')."
        )
    raise CheckpointError(f"{path}: holds {keys}, but neither tensors nor an entry 'model' with them.")


def _is_state(value: Any) -> bool:
    """Return whether a value is a dict of tensors that is not empty."""
    return isinstance(value, Mapping) and bool(value) and all(isinstance(v, Tensor) for v in value.values())


def _weights(path: Path, state: Any) -> dict[str, Tensor]:
    """Return the tensors by name, without the prefixes of wrapped models.

    Raises:
        CheckpointError: an entry is no plain tensor, or has NaN or infinite values.
    """
    if not isinstance(state, Mapping) or not state:
        what = "empty" if isinstance(state, Mapping) else f"a {type(state).__name__}"
        raise CheckpointError(f"{path}: its entry 'model' is {what}, not a dict of tensors.")
    tensors = {key: torch.from_numpy(v) if isinstance(v, np.ndarray) else v for key, v in state.items()}
    for key, value in tensors.items():
        if not isinstance(key, str) or not isinstance(value, Tensor):
            raise CheckpointError(f"{path}: 'model' holds {key!r}, a {type(value).__name__}, besides tensors.")
        if not _is_plain(value):
            raise CheckpointError(f"{path}: '{key}' is no plain tensor (sparse, quantized, or larger than its data).")
    broken = [key for key, value in tensors.items() if not is_finite(value)]
    if broken:
        raise CheckpointError(
            f"{path}: {len(broken)} of {len(tensors)} tensors are NaN or infinite (first: {broken[0]}). "
            "That training diverged; take an earlier checkpoint."
        )
    for prefix in _WRAPPERS * 2:  # one may wrap the other
        if all(key.startswith(prefix) for key in tensors):
            tensors = {key.removeprefix(prefix): value for key, value in tensors.items()}
    return tensors


def _is_plain(value: Tensor) -> bool:
    if value.layout is not torch.strided or value.device.type != "cpu" or value.is_quantized:
        return False
    return value.numel() * value.element_size() <= value.untyped_storage().nbytes()


def is_finite(value: Tensor) -> bool:
    """Return whether a tensor has neither NaN nor infinite values."""
    if not value.is_floating_point() and not value.is_complex():
        return True
    values = value.float() if value.element_size() < 2 else value  # isfinite does not know 8-bit floats
    return bool(torch.isfinite(values).all())
