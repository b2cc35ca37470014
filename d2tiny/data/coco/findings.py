"""What is wrong with a dataset: counted by kind, with examples."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from typing import Any, Literal

from tabulate import tabulate

__all__ = ["Findings", "Severity"]

Severity = Literal["error", "warning", "note"]
_ORDER: tuple[Severity, ...] = ("error", "warning", "note")
_EXAMPLES = 5


@dataclass
class _Kind:
    severity: Severity
    count: int = 0
    examples: list[str] = field(default_factory=list)


@dataclass
class Findings:
    """A counted list of problems.

    An ``error`` makes training or evaluation wrong or impossible, a ``warning`` is left out or changed where the data
    are used, a ``note`` is only worth knowing.
    """

    kinds: dict[str, _Kind] = field(default_factory=dict)

    def add(self, kind: str, example: str, severity: Severity = "warning", count: int = 1) -> None:
        """Count a case.

        Args:
            kind: in the plural, such as ``"boxes without area"``.
            example: where it is; the first few are kept.
            severity: of the kind; the first call decides.
            count: of cases.
        """
        entry = self.kinds.setdefault(kind, _Kind(severity))
        entry.count += count
        if len(entry.examples) < _EXAMPLES and example not in entry.examples:
            entry.examples.append(example)

    def __bool__(self) -> bool:
        return bool(self.kinds)

    def count(self, severity: Severity) -> int:
        """Return how many cases of a severity there are."""
        return sum(k.count for k in self.kinds.values() if k.severity == severity)

    def sorted(self) -> list[tuple[str, _Kind]]:
        """Return the kinds, the worst and most frequent first."""
        return sorted(self.kinds.items(), key=lambda item: (_ORDER.index(item[1].severity), -item[1].count))

    def __str__(self) -> str:
        return "; ".join(f"{k.count} {name} (first: {k.examples[0]})" for name, k in self.sorted())

    def table(self) -> str:
        """Return a text table with all examples."""
        rows = [
            ["" if i else kind.severity, "" if i else kind.count, "" if i else name, example]
            for name, kind in self.sorted()
            for i, example in enumerate(kind.examples)
        ]
        return tabulate(rows, headers=["", "count", "what", "examples"], tablefmt="simple", maxcolwidths=[8, 8, 44, 90])

    def to_dict(self) -> list[dict[str, Any]]:
        """Return it for json."""
        return [
            {"what": name, "severity": k.severity, "count": k.count, "examples": k.examples}
            for name, k in self.sorted()
        ]

    def log(self, logger: logging.Logger, where: object) -> None:
        """Write one warning, if there is anything."""
        if self.kinds:
            logger.warning("%s: %s", where, self)
