"""Export of trained detectors to ONNX, OpenVINO and TorchScript, verified."""

from typing import TYPE_CHECKING

import lazy_loader

if TYPE_CHECKING:
    from d2tiny.export.export import ExportResult, ExportSettings, export_model
    from d2tiny.export.verify import Verification, verify

_NAMES = {
    "export": ["ExportResult", "ExportSettings", "export_model"],
    "verify": ["Verification", "verify"],
}
__getattr__, __dir__, _ = lazy_loader.attach(__name__, submod_attrs=_NAMES)
__all__ = ["ExportResult", "ExportSettings", "Verification", "export_model", "verify"]
