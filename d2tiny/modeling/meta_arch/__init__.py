"""Meta-architectures: the outermost module of a detector."""

from d2tiny.modeling.meta_arch.dense import AuxiliaryBranch, TinyDenseDetector
from d2tiny.modeling.meta_arch.dino import TinyDINO
from d2tiny.modeling.meta_arch.dino_explanation import Explanation
from d2tiny.modeling.meta_arch.inputs import check_predictor_input
from d2tiny.modeling.meta_arch.lazy import LazyModel
from d2tiny.modeling.meta_arch.rcnn import TinyGeneralizedRCNN

__all__ = [
    "AuxiliaryBranch",
    "Explanation",
    "LazyModel",
    "TinyDINO",
    "TinyDenseDetector",
    "TinyGeneralizedRCNN",
    "check_predictor_input",
]
