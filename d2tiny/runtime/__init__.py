"""Run exported models without PyTorch: by OpenVINO or ONNX Runtime, in numpy arrays."""

from typing import TYPE_CHECKING

import lazy_loader

if TYPE_CHECKING:
    from d2tiny.runtime.detections import ArrayDetections, ArrayInstances
    from d2tiny.runtime.metadata import ModelMetadata
    from d2tiny.runtime.model import ExportedModel
    from d2tiny.runtime.resize import Resize

_NAMES = {
    "detections": ["ArrayDetections", "ArrayInstances"],
    "metadata": ["ModelMetadata"],
    "model": ["ExportedModel"],
    "resize": ["Resize"],
}
__getattr__, __dir__, _ = lazy_loader.attach(__name__, submod_attrs=_NAMES)
__all__ = ["ArrayDetections", "ArrayInstances", "ExportedModel", "ModelMetadata", "Resize"]
