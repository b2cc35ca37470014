"""How settings differ, in words."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

__all__ = ["settings_difference"]

_MISSING = object()


def settings_difference(
    old: Mapping[str, Any], new: Mapping[str, Any], ignored: Sequence[str] = (), most: int | None = None
) -> str:
    """Return the settings that differ, in words; empty if none does.

    Args:
        old: what is "there".
        new: what is "now".
        ignored: names that may differ.
        most: number of settings that are named.
    """
    pairs = {key: (old.get(key, _MISSING), new.get(key, _MISSING)) for key in {**old, **new} if key not in ignored}
    texts = [f"{key}: {_difference(a, b)}" for key, (a, b) in pairs.items() if a != b]
    rest = len(texts) - len(texts[:most])
    return "; ".join(texts[:most]) + (f" and {rest} more" if rest else "")


def _difference(old: Any, new: Any) -> str:
    if isinstance(old, list) and isinstance(new, list):
        for a, b in zip(old, new, strict=False):
            if a != b:
                return f"{len(old)} there, {len(new)} now, {_shown(a)} there and {_shown(b)} now"
        return f"{len(old)} there, {len(new)} now"
    return f"{_shown(old)} there, {_shown(new)} now"


def _shown(value: Any) -> str:
    text = "not set" if value is _MISSING else json.dumps(value, default=str)
    return text if len(text) <= 80 else text[:77] + "..."
