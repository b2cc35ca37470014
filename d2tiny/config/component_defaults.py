"""Defaults of d2tiny's components, kept in a run's config so that it means the same after they have changed."""

from __future__ import annotations

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
    for node in _own_nodes(content):
        for name, default in _defaults(node["_target_"]).items():
            if name not in node:
                found.setdefault(node["_target_"], {})[name] = default
    return {target: dict(sorted(found[target].items())) for target in sorted(found)}


def restore_defaults(content: dict[str, Any], path: Path) -> None:
    """Take what :func:`component_defaults` recorded out of a config, and set what has another default now, in place.

    What was changed is logged. An argument that its component no longer has is left out, since nothing reads it.

    Args:
        content: a config as plain containers; ``content["component_defaults"]`` need not exist.
        path: of the file, for messages.

    Raises:
        ConfigError: the record is no mapping of components to their arguments.
    """
    recorded = content.pop(KEY, {})
    if not isinstance(recorded, dict) or not all(isinstance(entry, dict) for entry in recorded.values()):
        raise ConfigError(
            f"{path}: {KEY} must map each component to its arguments; remove it to take today's defaults."
        )
    changes: set[str] = set()
    for node in _own_nodes(content):
        target = node["_target_"]
        entry = recorded.get(target)
        if not entry:
            continue
        today = _defaults(target)
        for name, former in entry.items():
            if name not in node and name in today and today[name] != former:
                node[name] = former
                changes.add(f"{target_name(target)}.{name} {former!r} (now {today[name]!r})")
    if changes:
        logger.info("%s: keeps the defaults of its time: %s", path, ", ".join(sorted(changes)))


def _own_nodes(content: Any) -> Iterator[dict[str, Any]]:
    """Yield every node of a component of d2tiny."""
    if isinstance(content, dict):
        if str(content.get("_target_", "")).startswith(_OWN):
            yield content
        for value in content.values():
            yield from _own_nodes(value)
    elif isinstance(content, list):
        for value in content:
            yield from _own_nodes(value)


def _defaults(target: str) -> dict[str, Any]:
    """Return the plain defaults of a component's arguments; tuples as lists, as YAML holds them."""
    try:
        names, _ = accepted_parameters(resolve_target(target, KEY))
    except ConfigError:  # a component that cannot be imported is told where it is built
        return {}
    values = {name: _as_yaml(parameter.default) for name, parameter in names.items()}
    return {name: value for name, value in values.items() if _is_plain(value)}


def _as_yaml(value: Any) -> Any:
    return [_as_yaml(entry) for entry in value] if isinstance(value, list | tuple) else value


def _is_plain(value: Any) -> bool:
    if isinstance(value, list):
        return all(_is_plain(entry) for entry in value)
    return value is None or type(value) in (bool, int, float, str)  # not an enum, which YAML would write as an object
