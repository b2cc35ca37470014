"""Category names of the benchmarks, in the order of their contiguous ids."""

from __future__ import annotations

# The official json files number these 1..8 (SPEC: AI-TOD v1 and v2, and the aerial tiles).
AITOD_CLASSES: tuple[str, ...] = (
    "airplane",
    "bridge",
    "storage-tank",
    "ship",
    "swimming-pool",
    "vehicle",
    "person",
    "wind-mill",
)
