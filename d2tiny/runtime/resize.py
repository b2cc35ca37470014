"""What a config's test recipe does to images before the model, in Pillow: the pixels of Detectron2's transforms."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from d2tiny.utils.errors import ConfigError

__all__ = ["Resize", "resized"]

_KINDS = {"shortest_edge": {"short", "max"}, "factor": {"factor"}}


@dataclass(frozen=True)
class Resize:
    """How images are resized.

    Attributes:
        short: the shorter side in px, unless the longer one would exceed ``longest``; 0 where ``factor`` counts.
        longest: limit of the longer side in px.
        factor: of both sides.
    """

    short: int = 0
    longest: int = 0
    factor: float = 1.0

    @classmethod
    def from_dict(cls, data: Mapping[str, Any] | None) -> Resize | None:
        """Read ``{"kind": "shortest_edge", "short": 800, "max": 1333}``, ``{"kind": "factor", "factor": 2.0}``, None.

        Raises:
            ConfigError: another kind, other keys, or a value outside its range.
        """
        if data is None:
            return None
        keys = _KINDS.get(str(data.get("kind")), set())
        numbers = [data[key] for key in data if key != "kind"]
        plain = all(isinstance(n, int | float) and not isinstance(n, bool) and 0 < n < 1e6 for n in numbers)
        if not keys or set(data) != {"kind", *keys} or not plain:
            raise ConfigError(
                f"resize={dict(data)} must be null, {{'kind': 'shortest_edge', 'short': px, 'max': px}} or "
                "{'kind': 'factor', 'factor': number over 0}."
            )
        if "factor" in data:
            return cls(factor=float(data["factor"]))
        return cls(int(data["short"]), int(data["max"]))

    def size(self, height: int, width: int) -> tuple[int, int]:
        """Return (height, width) in px of a resized image, as ``ResizeShortestEdge`` and ``ResizeByFactor`` round."""
        if not self.short:
            return max(1, round(height * self.factor)), max(1, round(width * self.factor))
        scale = self.short / min(height, width)
        new = (float(self.short), scale * width) if height < width else (scale * height, float(self.short))
        if max(new) > self.longest:
            shrink = self.longest / max(new)
            new = (new[0] * shrink, new[1] * shrink)
        return int(new[0] + 0.5), int(new[1] + 0.5)

    def tile_size(self, height: int, width: int, tile: int) -> tuple[int, int]:
        """Return the size of a part of a scene, at the scale that a whole tile gets, so that all parts have one.

        Args:
            height: of the part in px.
            width: likewise.
            tile: side of a whole tile in px.
        """
        if not self.short:  # the scale is the same for all
            return self.size(height, width)
        factor = self.size(tile, tile)[1] / tile
        return max(1, round(height * factor)), max(1, round(width * factor))


def resized(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Return an image (H, W, 3) uint8 with another (height, width), bilinear, as Detectron2's ``ResizeTransform``."""
    new = Image.fromarray(np.ascontiguousarray(image)).resize((size[1], size[0]), Image.Resampling.BILINEAR)
    return np.asarray(new)
