"""The machine: choice of the device, optional packages, and a description of the hardware for result files.

torch is imported where it is used, so that commands that do not need it start fast.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import platform
import re
from pathlib import Path
from typing import Any

from d2tiny.utils.errors import ConfigError, MissingPackageError

__all__ = [
    "advise_on_bf16",
    "describe_hardware",
    "has_fast_bf16",
    "missing_package",
    "require_detectron2",
    "require_extra",
    "resolve_device",
]


# Modules that commands import without asking for them, by the extra of d2tiny that installs them.
_MODULES = {
    "data": ("cv2", "numba", "llvmlite", "scipy", "yaml", "matplotlib"),
    "train": (
        "torch",
        "torchvision",
        "pycocotools",
        "fvcore",
        "iopath",
        "yacs",
        "omegaconf",
        "hydra",
        "tensorboard",
        "termcolor",
        "cloudpickle",
        "timm",
    ),
    "export": ("onnx", "onnxscript", "nncf"),
}


def require_detectron2() -> None:
    """Check that PyTorch and Detectron2 are installed.

    Raises:
        MissingPackageError: one is not; the message says how to install it.
    """
    if importlib.util.find_spec("torch") is None:
        raise MissingPackageError(
            "This needs PyTorch, which is not installed: pip install 'd2tiny[train]', then run "
            "`python tools/install_detectron2.py` in d2tiny's checkout. Exported models run without "
            "(d2tiny predict --model, TiledPredictor.from_export)."
        )
    if importlib.util.find_spec("detectron2") is None:
        raise MissingPackageError(
            "d2tiny needs detectron2, which is no package on the index. Run `python tools/install_detectron2.py` "
            "in d2tiny's checkout, or build detectron2 from source."
        )


def missing_package(error: ImportError) -> str:
    """Return what an ImportError says; of a package that an extra of d2tiny installs, which one that is."""
    name = (error.name or "").partition(".")[0]
    extra = next((extra for extra, modules in _MODULES.items() if name in modules), None)
    if extra is None or not isinstance(error, ModuleNotFoundError):
        return str(error)
    return f"This needs {name}, which is not installed: pip install 'd2tiny[{extra}]'."


def require_extra(module: str, extra: str) -> Any:
    """Import and return an optional package.

    Args:
        module: name of the module.
        extra: extra of d2tiny that installs it.

    Raises:
        MissingPackageError: the package is not installed; the message names the extra.
    """
    try:
        return importlib.import_module(module)
    except ImportError as err:
        raise MissingPackageError(
            f"This needs {module}, which is not installed: pip install 'd2tiny[{extra}]'."
        ) from err


def resolve_device(device: str = "auto") -> str:
    """Return the device, with ``"auto"`` resolved to ``"cuda"`` if a GPU is usable and to ``"cpu"`` otherwise.

    Raises:
        ConfigError: ``device`` names CUDA without a usable GPU, or torch does not know it.
    """
    import torch

    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if device.startswith("cuda") and not torch.cuda.is_available():
        raise ConfigError(f"device '{device}' asked for, but torch sees no GPU. Use 'auto' or 'cpu'.")
    try:
        torch.device(device)
    except RuntimeError as err:
        raise ConfigError(f"Unknown device '{device}'. Use 'auto', 'cpu' or 'cuda'.") from err
    return device


def describe_hardware() -> dict[str, str | int]:
    """Return processor, cores, threads, GPU and versions of Python and torch, as result files record them."""
    import torch

    processor = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                processor = line.split(":", 1)[1].strip()
                break
    return {
        "processor": processor,
        "cores": os.cpu_count() or 1,
        "threads": torch.get_num_threads(),
        "gpu": torch.cuda.get_device_name(0) if torch.cuda.is_available() else "none",
        "python": platform.python_version(),
        "torch": torch.__version__,
    }


def has_fast_bf16(device: str = "auto") -> bool:
    """Return whether bfloat16 is faster than float32: on a GPU that has it, or a CPU with bfloat16 instructions.

    Args:
        device: as :func:`resolve_device` takes it.
    """
    import torch

    if (device := resolve_device(device)).startswith("cuda"):
        return bool(torch.version.hip) or torch.cuda.get_device_capability(device)[0] >= 8  # older ones emulate it
    cpuinfo = Path("/proc/cpuinfo")
    flags = cpuinfo.read_text() if cpuinfo.exists() else ""
    return re.search(r"\b(avx512_bf16|amx_bf16|bf16)\b", flags) is not None  # the last on ARM


def advise_on_bf16(device: str) -> str:
    """Return a warning for bfloat16 on a processor or GPU without instructions for it; empty elsewhere.

    Args:
        device: ``cpu``, ``cuda`` or ``cuda:N``, on which autocast to bfloat16 was asked for.
    """
    if has_fast_bf16(device):
        return ""
    what = "GPU has no units for it (compute capability 8 or later)"
    if not device.startswith("cuda"):
        what = "processor has no instructions for it (avx512_bf16 or amx_bf16)"
    return f"bfloat16 was asked for, but this {what}: everything takes several times as long as in float32."
