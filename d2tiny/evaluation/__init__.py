"""Evaluation by protocol."""

from d2tiny.data.coco.arrays import GroundTruth, load_ground_truth
from d2tiny.evaluation.coco_tiny import TinyCOCOEvaluator, evaluate_detections, format_table
from d2tiny.evaluation.detections import Detections, load_detections, write_detections
from d2tiny.evaluation.engine import EvaluationResult, evaluate_arrays
from d2tiny.evaluation.protocols import PROTOCOLS, Protocol, get_protocol, make_protocol

__all__ = [
    "PROTOCOLS",
    "Detections",
    "EvaluationResult",
    "GroundTruth",
    "Protocol",
    "TinyCOCOEvaluator",
    "evaluate_arrays",
    "evaluate_detections",
    "format_table",
    "get_protocol",
    "load_detections",
    "load_ground_truth",
    "make_protocol",
    "write_detections",
]
