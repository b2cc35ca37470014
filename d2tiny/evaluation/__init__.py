"""Evaluation of detections by the protocols of the benchmarks.

Names are imported when they are first used: everything but ``TinyCOCOEvaluator`` needs neither torch nor Detectron2.
"""

from typing import TYPE_CHECKING

import lazy_loader

if TYPE_CHECKING:
    from d2tiny.evaluation.coco_dicts import evaluate_detections
    from d2tiny.evaluation.coco_tiny import TinyCOCOEvaluator
    from d2tiny.evaluation.detections import Detections, load_detections, write_detections
    from d2tiny.evaluation.engine import EvaluationResult, evaluate_arrays
    from d2tiny.evaluation.protocols import PROTOCOLS, Protocol, get_protocol, make_protocol
    from d2tiny.evaluation.table import format_table

__getattr__, __dir__, _ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "coco_dicts": ["evaluate_detections"],
        "coco_tiny": ["TinyCOCOEvaluator"],
        "detections": ["Detections", "load_detections", "write_detections"],
        "engine": ["EvaluationResult", "evaluate_arrays"],
        "protocols": ["PROTOCOLS", "Protocol", "get_protocol", "make_protocol"],
        "table": ["format_table"],
    },
)
__all__ = [
    "PROTOCOLS",
    "Detections",
    "EvaluationResult",
    "Protocol",
    "TinyCOCOEvaluator",
    "evaluate_arrays",
    "evaluate_detections",
    "format_table",
    "get_protocol",
    "load_detections",
    "make_protocol",
    "write_detections",
]
