"""Findings: the problems of a dataset, counted by kind, with examples."""

from __future__ import annotations

import logging
from copy import deepcopy
from dataclasses import dataclass, field
from typing import Any, Literal

from tabulate import tabulate

__all__ = ["Findings", "Severity"]

Severity = Literal["error", "warning", "note"]
_ORDER: tuple[Severity, ...] = ("error", "warning", "note")
_EXAMPLES = 5
_LONGEST = 400  # characters of an example


@dataclass
class _Kind:
    severity: Severity
    count: int = 0
    examples: list[str] = field(default_factory=list)


def _printable(text: str) -> str:
    """Return a text that every terminal takes: about 400 characters at most, no lone surrogates."""
    short = text if len(text) <= _LONGEST else f"{text[: _LONGEST // 2]} ... {text[-_LONGEST // 2 :]}"
    return short if short.isascii() else short.encode("utf-8", "backslashreplace").decode("utf-8")


@dataclass
class Findings:
    """A counted list of problems.

    An ``error`` makes training or evaluation wrong or impossible, a ``warning`` marks data that are left out or changed
    where they are used, and a ``note`` is for information only.

    Attributes:
        kinds: severity, count and first examples of each kind.
    """

    kinds: dict[str, _Kind] = field(default_factory=dict)

    def add(self, kind: str, example: str, severity: Severity = "warning", count: int = 1) -> None:
        """Count one or several cases.

        Args:
            kind: description in the plural, such as ``"boxes without area"``.
            example: location of the case; the first five different ones of a kind are kept, long ones without their
                middle.
            severity: severity of the kind; later calls for the same kind do not change it.
            count: number of cases.
        """
        entry = self.kinds.setdefault(kind, _Kind(severity))
        entry.count += count
        example = _printable(example)
        if len(entry.examples) < _EXAMPLES and example not in entry.examples:
            entry.examples.append(example)

    def copy(self) -> Findings:
        """Return findings with the same cases, to which others can be added."""
        return deepcopy(self)

    def __bool__(self) -> bool:
        return bool(self.kinds)

    def count(self, severity: Severity) -> int:
        """Return the number of cases of one severity."""
        return sum(k.count for k in self.kinds.values() if k.severity == severity)

    def sorted(self) -> list[tuple[str, _Kind]]:
        """Return the kinds, sorted by severity, then by falling count."""
        return sorted(self.kinds.items(), key=lambda item: (_ORDER.index(item[1].severity), -item[1].count))

    def __str__(self) -> str:
        return "; ".join(f"{k.count} {name} (first: {k.examples[0]})" for name, k in self.sorted())

    def table(self) -> str:
        """Return a text table with the examples that were kept."""
        rows = [
            ["" if i else kind.severity, "" if i else kind.count, "" if i else name, example]
            for name, kind in self.sorted()
            for i, example in enumerate(kind.examples)
        ]
        return tabulate(rows, headers=["", "count", "what", "examples"], tablefmt="simple", maxcolwidths=[8, 8, 44, 90])

    def to_dict(self) -> list[dict[str, Any]]:
        """Return one dict for each kind, for json."""
        return [
            {"what": name, "severity": k.severity, "count": k.count, "examples": k.examples}
            for name, k in self.sorted()
        ]

    def log(self, logger: logging.Logger, where: object) -> None:
        """Log all findings as one warning; nothing if there are none."""
        if self.kinds:
            logger.warning("%s: %s", where, self)
