"""Components of detection transformers: DINO and ScaleBridge-Det."""

from d2tiny.modeling.transformer.count_classes import DEFAULT_THRESHOLDS, CountClassifier
from d2tiny.modeling.transformer.criterion import DINOCriterion
from d2tiny.modeling.transformer.decoder import DecoderOutput, DINODecoder
from d2tiny.modeling.transformer.denoising import Denoising, DenoisingQueries
from d2tiny.modeling.transformer.density_map import density_target
from d2tiny.modeling.transformer.density_queries import DEFAULT_BUCKETS, DensityQueries, DensityTarget
from d2tiny.modeling.transformer.encoder import DeformableEncoder
from d2tiny.modeling.transformer.experts import (
    ContextExpert,
    DetailExpert,
    FrozenExpert,
    LocalExpert,
    WideExpert,
)
from d2tiny.modeling.transformer.routing import REM, RoutingOutput
from d2tiny.modeling.transformer.selection import InitialQueries, Proposals, QuerySelection, SelectedTokens
from d2tiny.modeling.transformer.sparsity import TokenSparsity
from d2tiny.modeling.transformer.tokens import Tokens, flatten_maps, has_padding, padding_masks, ratios_of_strides

__all__ = [
    "DEFAULT_BUCKETS",
    "DEFAULT_THRESHOLDS",
    "REM",
    "ContextExpert",
    "CountClassifier",
    "DINOCriterion",
    "DINODecoder",
    "DecoderOutput",
    "DeformableEncoder",
    "Denoising",
    "DenoisingQueries",
    "DensityQueries",
    "DensityTarget",
    "DetailExpert",
    "FrozenExpert",
    "InitialQueries",
    "LocalExpert",
    "Proposals",
    "QuerySelection",
    "RoutingOutput",
    "SelectedTokens",
    "TokenSparsity",
    "Tokens",
    "WideExpert",
    "density_target",
    "flatten_maps",
    "has_padding",
    "padding_masks",
    "ratios_of_strides",
]
