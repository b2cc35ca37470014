"""Evaluation protocols are data; one engine runs them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import MappingProxyType

import numpy as np

from d2tiny.utils.errors import ConfigError, did_you_mean

__all__ = ["PROTOCOLS", "Protocol", "get_protocol"]

_INFINITE = 1e10


def _coco_ious() -> tuple[float, ...]:
    return tuple(np.linspace(0.5, 0.95, 10).tolist())


@dataclass(frozen=True)
class Protocol:
    """How average precision is computed.

    Attributes:
        name: of the protocol.
        areas: area bins in px², label → (low, high), closed at both ends; metric ``AP{label}``.
        max_dets: detections of an image that count, rising; AP uses the last, ``AR@k`` each.
        iou_thresholds: AP is the mean over them.
    """

    name: str
    areas: Mapping[str, tuple[float, float]]
    max_dets: tuple[int, ...]
    iou_thresholds: tuple[float, ...] = field(default_factory=_coco_ious)

    def with_max_dets(self, max_dets: Sequence[int]) -> Protocol:
        """Return the protocol with other limits.

        Raises:
            ConfigError: limits that are not positive and rising.
        """
        limits = tuple(int(k) for k in max_dets)
        if not limits or limits[0] < 1 or list(limits) != sorted(set(limits)):
            raise ConfigError(f"max_dets must be positive and rising, got {limits}.")
        return replace(self, max_dets=limits)


# aitodpycocotools 12.0.3: an object of exactly 64 px² counts as very tiny and as tiny.
_AITOD = Protocol(
    name="aitod",
    areas=MappingProxyType(
        {
            "vt": (0.0, 8.0**2),
            "t": (8.0**2, 16.0**2),
            "s": (16.0**2, 32.0**2),
            "m": (32.0**2, _INFINITE),
        }
    ),
    max_dets=(1, 100, 1500),
)
_COCO = Protocol(
    name="coco",
    areas=MappingProxyType({"s": (0.0, 32.0**2), "m": (32.0**2, 96.0**2), "l": (96.0**2, _INFINITE)}),
    max_dets=(1, 10, 100),
)

PROTOCOLS: dict[str, Protocol] = {p.name: p for p in (_AITOD, _COCO)}


def get_protocol(protocol: str | Protocol) -> Protocol:
    """Return a protocol by name, or the given one.

    Raises:
        ConfigError: unknown name; says which exist.
    """
    if isinstance(protocol, Protocol):
        return protocol
    if protocol not in PROTOCOLS:
        raise ConfigError(f"Unknown protocol '{protocol}'. {did_you_mean(protocol, PROTOCOLS)}")
    return PROTOCOLS[protocol]
