"""Export of trained detectors to ONNX, OpenVINO and TorchScript, verified."""

from typing import TYPE_CHECKING

import lazy_loader

if TYPE_CHECKING:
    from d2tiny.export.comparison import Verification, verify
    from d2tiny.export.export import ExportResult, ExportSettings, export_model

_NAMES = {
    "comparison": ["Verification", "verify"],
    "export": ["ExportResult", "ExportSettings", "export_model"],
}
__getattr__, __dir__, _ = lazy_loader.attach(__name__, submod_attrs=_NAMES)
__all__ = ["ExportResult", "ExportSettings", "Verification", "export_model", "verify"]
