"""Evaluation by protocol."""

from d2tiny.evaluation.coco_tiny import TinyCOCOEvaluator, evaluate_detections, format_table
from d2tiny.evaluation.protocols import PROTOCOLS, Protocol, get_protocol

__all__ = [
    "PROTOCOLS",
    "Protocol",
    "TinyCOCOEvaluator",
    "evaluate_detections",
    "format_table",
    "get_protocol",
]
