"""Detectors as models of OpenVINO."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from d2tiny.export.onnx_model import OUTPUTS
from d2tiny.runtime.files import seal
from d2tiny.runtime.metadata import RT_INFO_PATH, ModelMetadata

__all__ = ["convert_to_openvino", "write_openvino"]


def convert_to_openvino(onnx_file: Path) -> Any:
    """Return an ``openvino.Model`` of an ONNX file."""
    import openvino

    model = openvino.convert_model(onnx_file)  # fuses, which reading alone does not
    for output, name in zip(model.outputs, OUTPUTS, strict=True):
        output.get_tensor().set_names({name})
    return model


def write_openvino(model: Any, metadata: ModelMetadata, path: Path) -> None:
    """Write a model as ``.xml`` with its ``.bin`` beside it, weights in their own type, with a checksum of both."""
    import openvino

    model.set_rt_info(metadata.to_json(), list(RT_INFO_PATH))
    openvino.save_model(model, path, compress_to_fp16=False)
    seal(path)
