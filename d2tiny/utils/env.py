"""The environment: what is installed, the choice of a device, and a description of the machine for result files.

torch is imported where it is used, so that commands that do not need it start fast.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import platform
from pathlib import Path
from typing import Any

from d2tiny.utils.errors import ConfigError

__all__ = ["describe_hardware", "has_fast_bf16", "require_detectron2", "require_extra", "resolve_device"]


def require_detectron2() -> None:
    """Say what to do when Detectron2 is absent.

    Raises:
        ImportError: it is not installed.
    """
    if importlib.util.find_spec("detectron2") is None:
        raise ImportError(
            "d2tiny needs detectron2, which is no package on the index. Run `python tools/install_detectron2.py` "
            "in d2tiny's checkout, or build detectron2 from source."
        )


def require_extra(module: str, extra: str) -> Any:
    """Import an optional package.

    Raises:
        ImportError: it is not installed; says which extra of d2tiny brings it.
    """
    try:
        return importlib.import_module(module)
    except ImportError as err:
        raise ImportError(f"This needs {module}, which is not installed: pip install 'd2tiny[{extra}]'.") from err


def resolve_device(device: str = "auto") -> str:
    """Turn ``"auto"`` into ``"cuda"`` where a GPU is usable, else ``"cpu"``.

    Raises:
        ConfigError: ``device`` names CUDA and no GPU is usable, or is unknown to torch.
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
    """Return processor, cores, GPU and library versions, as result files record them."""
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


def has_fast_bf16() -> bool:
    """Whether this machine multiplies bfloat16 faster than float32 (GPU, or a CPU with the instructions)."""
    import torch

    if torch.cuda.is_available():
        return torch.cuda.is_bf16_supported()
    cpuinfo = Path("/proc/cpuinfo")
    flags = cpuinfo.read_text() if cpuinfo.exists() else ""
    return "avx512_bf16" in flags or "amx_bf16" in flags
