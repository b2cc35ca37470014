"""Defaults of d2tiny's components, kept in a run's config so that it means the same after they have changed."""

from __future__ import annotations

import functools
import inspect
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from d2tiny.config.signature import accepted_parameters, resolve_target, target_name
from d2tiny.utils.errors import ConfigError

__all__ = ["KEY", "component_defaults", "restore_defaults"]

KEY = "component_defaults"
_OWN = "d2tiny."

logger = logging.getLogger(__name__)


def component_defaults(content: Any) -> dict[str, dict[str, Any]]:
    """Return the defaults that a config relies on: ``{name of the component: {argument: default}}``.

    Only d2tiny's own components are read, and only numbers, texts, truth values, null and lists of them.

    Args:
        content: a config as plain containers, with the components' names as texts.
    """
    found: dict[str, dict[str, Any]] = {}
    for _, node in _own_nodes(content):
        for name, parameter in _arguments(node["_target_"]).items():
            default = _as_yaml(parameter.default)
            if name not in node and _is_plain(default):
                found.setdefault(node["_target_"], {})[name] = default
    return {target: dict(sorted(found[target].items())) for target in sorted(found)}


def restore_defaults(content: dict[str, Any], path: Path) -> list[tuple[tuple[str | int, ...], Any]]:
    """Take what :func:`component_defaults` recorded out of a config, and set what has another default now, in place.

    What was changed is logged, and so is an argument that its component no longer has; the same message once.

    Args:
        content: a config as plain containers; ``content["component_defaults"]`` need not exist.
        path: of the file, for messages.

    Returns:
        What was set: the keys that lead to it, and the value.

    Raises:
        ConfigError: the record is no mapping of components to their arguments and plain values.
    """
    recorded = content.pop(KEY, None) or {}
    if not isinstance(recorded, dict) or not all(map(_is_entry, recorded.values())):
        raise ConfigError(
            f"{path}: {KEY} must map each component to its arguments and their values; without it today's are taken."
        )
    restored: list[tuple[tuple[str | int, ...], Any]] = []
    changes, gone = set(), set()
    for keys, node in _own_nodes(content):
        target = node["_target_"]
        entry = recorded.get(target, {})
        arguments = _arguments(target) if entry else {}
        for name, former in entry.items():
            if name in node or not arguments:  # a component that cannot be imported is told where it is built
                continue
            if name not in arguments:
                gone.add(f"{target_name(target)}.{name} (was {former!r})")
                continue
            today = _as_yaml(arguments[name].default)
            if repr(today) != repr(former):  # 1, 1.0 and True are equal, and NaN to nothing
                node[name] = former
                restored.append(((*keys, name), former))
                now = "without default now" if today is inspect.Parameter.empty else f"now {today!r}"
                changes.add(f"{target_name(target)}.{name} {former!r} ({now})")
    if changes:
        _tell(f"{path}: keeps the defaults of its time: {', '.join(sorted(changes))}.")
    if gone:
        _tell(f"{path}: these arguments are no more: {', '.join(sorted(gone))}.")
    return restored


@functools.cache
def _tell(message: str) -> None:
    """Log a warning; the next reader of the same file does not repeat it."""
    logger.warning(message)


def _own_nodes(
    content: Any, keys: tuple[str | int, ...] = ()
) -> Iterator[tuple[tuple[str | int, ...], dict[str, Any]]]:
    """Yield every node of a component of d2tiny, with the keys that lead to it."""
    if isinstance(content, dict) and str(content.get("_target_", "")).startswith(_OWN):
        yield keys, content
    for name, value in content.items() if isinstance(content, dict) else enumerate(content):
        if isinstance(value, dict | list):
            yield from _own_nodes(value, (*keys, name))


def _arguments(target: str) -> dict[str, inspect.Parameter]:
    """Return the arguments of a component; none of one that cannot be imported."""
    try:
        return accepted_parameters(resolve_target(target, KEY))[0]
    except ConfigError:
        return {}


def _as_yaml(value: Any) -> Any:
    """Return a default as YAML holds it, tuples as lists."""
    return [_as_yaml(entry) for entry in value] if isinstance(value, list | tuple) else value


def _is_plain(value: Any) -> bool:
    """Return whether YAML holds a value as it is: no enum, which would be an object, and no interpolation."""
    if isinstance(value, list):
        return all(map(_is_plain, value))
    return value is None or (type(value) in (bool, int, float, str) and "${" not in str(value))


def _is_entry(entry: Any) -> bool:
    return isinstance(entry, dict) and all(isinstance(name, str) and _is_plain(value) for name, value in entry.items())
