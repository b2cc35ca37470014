"""Scale images of 16 bits, floating point and other depths to 8 bits, as the user tells."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from d2tiny.utils.errors import ConfigError

__all__ = ["Stretch", "StretchLike", "make_stretch"]


@dataclass(frozen=True)
class Stretch:
    """The values that become 0 and 255; values between are scaled linearly, others clipped, NaN and no-data become 0.

    Attributes:
        low: value that becomes 0.
        high: value that becomes 255.
        percent: both are percentiles of each band of each image instead of values. Equal objects then look different in
            different images; prefer values for training.
    """

    low: float
    high: float
    percent: bool = False

    def __str__(self) -> str:
        """Return it as the user writes it."""
        unit = "%" * self.percent
        return f"{self.low:g}{unit},{self.high:g}{unit}"

    def limits(self, sample: np.ndarray) -> np.ndarray:
        """Return the values (C, 2) float64 that become 0 and 255.

        Args:
            sample: pixels (N, C), NaN where there is no data.
        """
        if not self.percent:
            return np.tile(np.array([self.low, self.high]), (sample.shape[1], 1))
        result = np.zeros((sample.shape[1], 2))
        for band, values in enumerate(sample.T):
            finite = values[np.isfinite(values)]
            if len(finite):
                result[band] = np.percentile(finite.astype(np.float64), (self.low, self.high))
        return result


StretchLike = Stretch | str | Sequence[float | str] | None


def make_stretch(value: StretchLike) -> Stretch | None:
    """Return a stretch from ``min,max``, from percentiles such as ``2%,98%``, or from two numbers; None stays None.

    Raises:
        ConfigError: it is none of these, or the first is not below the second.
    """
    if value is None or isinstance(value, Stretch):
        return value
    words = [str(word).strip() for word in (value.split(",") if isinstance(value, str) else value)]
    percent = [word.endswith("%") for word in words]
    try:
        low, high = (float(word.removesuffix("%")) for word in words)
        good = math.isfinite(low) and math.isfinite(high) and low < high and percent[0] == percent[1]
    except ValueError:
        good = False
    if not good or "_" in "".join(words) or (percent[0] and not 0 <= low < high <= 100):
        raise ConfigError(
            f"stretch={value!r} must be two rising values such as '0,4095', or two percentiles such as '2%,98%'."
        )
    return Stretch(low, high, percent[0])


def scale_to_bytes(values: np.ndarray, limits: np.ndarray) -> np.ndarray:
    """Return pixels scaled to uint8.

    Args:
        values: (..., C) floating point, NaN where there is no data.
        limits: (C, 2), the values that become 0 and 255; where they are equal, values above them become 255.
    """
    low, width = limits[:, 0], limits[:, 1] - limits[:, 0]
    with np.errstate(invalid="ignore", over="ignore"):
        scaled = (values - low.astype(values.dtype)) * (255 / np.maximum(width, 1e-300)).astype(values.dtype)
        result = np.nan_to_num(np.rint(scaled), nan=0.0, posinf=255.0, neginf=0.0).clip(0, 255)
    return result.astype(np.uint8)
