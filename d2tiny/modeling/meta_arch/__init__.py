"""Meta-architectures. Two-stage detectors are Detectron2's own GeneralizedRCNN."""

from d2tiny.modeling.meta_arch.dense import AuxiliaryBranch, TinyDenseDetector
from d2tiny.modeling.meta_arch.dino import Explanation, TinyDINO
from d2tiny.modeling.meta_arch.inputs import check_predictor_input
from d2tiny.modeling.meta_arch.lazy import LazyModel

__all__ = ["AuxiliaryBranch", "Explanation", "LazyModel", "TinyDINO", "TinyDenseDetector", "check_predictor_input"]
