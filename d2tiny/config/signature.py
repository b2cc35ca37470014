"""What a lazily called target accepts."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

from detectron2.utils.registry import locate

from d2tiny.utils.errors import ConfigError

__all__ = ["accepted_parameters", "resolve_target", "target_name"]


def resolve_target(target: Any, where: str) -> Callable[..., Any]:
    """Return the callable behind a ``_target_``.

    Raises:
        ConfigError: a name that cannot be imported, or something that cannot be called.
    """
    if isinstance(target, str):
        name = target
        try:
            target = locate(name)
        except Exception as err:
            raise ConfigError(f"{where}._target_: cannot import '{name}' ({err}).") from err
    if not callable(target):
        raise ConfigError(f"{where}._target_: {target!r} is not callable.")
    return target


def target_name(target: Any) -> str:
    """Return a short name for messages."""
    if isinstance(target, str):
        return target.rsplit(".", 1)[-1]
    return getattr(target, "__name__", str(target))


def accepted_parameters(target: Callable[..., Any]) -> tuple[dict[str, inspect.Parameter], bool]:
    """Return the keyword parameters of a callable and whether it takes any others.

    ``**kwargs`` of a constructor is followed up the base classes, since it is handed on to them.
    """
    names: dict[str, inspect.Parameter] = {}
    if not inspect.isclass(target):
        try:
            signature = inspect.signature(target)
        except (TypeError, ValueError):  # built-ins without a signature
            return {}, True
        open_ended = _collect(signature, names, skip_self=False)
        return names, open_ended
    for cls in target.__mro__:
        init = cls.__dict__.get("__init__")
        if init is None:
            continue
        if cls is object:
            break
        if not _collect(inspect.signature(init), names, skip_self=True):
            return names, False
    return names, False


def _collect(signature: inspect.Signature, names: dict[str, inspect.Parameter], *, skip_self: bool) -> bool:
    """Add keyword parameters to ``names``; return whether ``**kwargs`` is among them."""
    open_ended = False
    for i, parameter in enumerate(signature.parameters.values()):
        if skip_self and i == 0:
            continue
        if parameter.kind is inspect.Parameter.VAR_KEYWORD:
            open_ended = True
        elif parameter.kind in (
            inspect.Parameter.POSITIONAL_OR_KEYWORD,
            inspect.Parameter.KEYWORD_ONLY,
        ):
            names.setdefault(parameter.name, parameter)
    return open_ended
