"""Which callables a YAML config may name: parts of models, data, optimizers and schedules, and what the user allows."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from detectron2.utils.registry import locate

from d2tiny.utils.errors import ConfigError

__all__ = ["ALLOWED_TARGETS", "TARGETS_VARIABLE", "check_targets"]

TARGETS_VARIABLE = "D2TINY_TARGETS"
# Modules of what may be built. What they import is not among it: d2tiny.layers.x.os.system is of another module.
ALLOWED_TARGETS = (
    "d2tiny.config.native",
    "d2tiny.data.loading",
    "d2tiny.data.transforms",
    "d2tiny.engine.accumulation",
    "d2tiny.engine.hooks",
    "d2tiny.engine.optim",
    "d2tiny.engine.schedule",
    "d2tiny.engine.time_limit",
    "d2tiny.evaluation.coco_tiny",
    "d2tiny.layers",
    "d2tiny.modeling",
    "detectron2.data.transforms",
    "detectron2.evaluation",
    "detectron2.layers",
    "detectron2.modeling",
    "detectron2.solver",
    "fvcore.common.param_scheduler",
    "torch.nn",
    "torch.optim",
    "torchvision.models",
    "torchvision.ops",
)
# Interpolations that make nodes out of texts, and those whose name is made of another one.
_MAKES_NODES = re.compile(r"\$\{\s*(?:oc\.(?:create|decode)\s*:|[^{}:]*\$\{)")


def check_targets(content: Any, path: Path) -> None:
    """Refuse a YAML config that names other callables than those that models and trainings are made of.

    Packages of one's own are allowed by their names, with commas between them, in the environment variable
    ``D2TINY_TARGETS``.

    Args:
        content: what the file holds.
        path: of the file, for the message.

    Raises:
        ConfigError: a ``_target_`` that is not allowed; says where it stands and how to allow it.
    """
    own = [name.strip() for name in os.environ.get(TARGETS_VARIABLE, "").split(",") if name.strip()]
    for key, name, text in _texts(content, ""):
        if _MAKES_NODES.search(text):
            raise ConfigError(f"{path}: {key}: {text[:80]!r} makes a value out of text, and is not read from YAML.")
        if name == "_target_" and not _is_allowed(text, (*ALLOWED_TARGETS, *own)):
            raise ConfigError(
                f"{path}: {key}: {text[:200]!r} is no part of a model or training that a YAML config may call. If you "
                f"trust the file, allow it: {TARGETS_VARIABLE}={text.partition('.')[0][:80]}, or write a .py config."
            )


def _texts(node: Any, key: str) -> Iterator[tuple[str, str, str]]:
    """Yield the full key, the key and the value of every text, also of texts in lists."""
    pairs = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
    for name, value in pairs:
        full = f"{key}.{name}" if key else str(name)
        if isinstance(value, str):
            yield full, str(name), value
        yield from _texts(value, full)


def _is_allowed(name: str, modules: tuple[str, ...]) -> bool:
    """Return whether a name lies in a module, and so does what it stands for; what cannot be imported is told later."""
    if not any(name.startswith(f"{module}.") for module in modules):
        return False
    try:
        found = locate(name)
    except Exception:  # whatever an import raises
        return True
    module = str(getattr(found, "__module__", ""))
    return any(f"{module}.".startswith(f"{allowed}.") for allowed in modules)
