"""Post-training quantisation to 8-bit integers with NNCF."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from typing import Any

import numpy as np

__all__ = ["quantize"]


def quantize(model: Any, images: Iterable[np.ndarray]) -> Any:
    """Return a copy of a model whose convolutions and matrix products compute in int8.

    Args:
        model: an ``openvino.Model`` or an ``onnx.ModelProto`` of :mod:`d2tiny.export`.
        images: (1, H, W, 3) uint8 each, as the graph takes them: what the ranges of values are measured on.
    """
    import nncf

    logging.getLogger("nncf").setLevel(logging.ERROR)
    if hasattr(model, "graph"):  # ONNX: NNCF wants batch norms inside the convolutions
        from onnxscript import optimizer

        model = optimizer.optimize(model)
    samples = [{"images": image} for image in images]
    return nncf.quantize(model, nncf.Dataset(samples), subset_size=len(samples), preset=nncf.QuantizationPreset.MIXED)
