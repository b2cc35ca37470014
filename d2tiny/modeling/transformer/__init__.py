"""Parts of detection transformers."""

from d2tiny.modeling.transformer.criterion import DINOCriterion
from d2tiny.modeling.transformer.decoder import Decoded, DINODecoder
from d2tiny.modeling.transformer.denoising import Denoising, DenoisingQueries
from d2tiny.modeling.transformer.density_queries import DensityQueries, density_target
from d2tiny.modeling.transformer.encoder import DeformableEncoder
from d2tiny.modeling.transformer.experts import (
    ContextExpert,
    DetailExpert,
    FrozenExpert,
    LocalExpert,
    WideExpert,
)
from d2tiny.modeling.transformer.routing import REM, Routed
from d2tiny.modeling.transformer.selection import Proposals, QuerySelection
from d2tiny.modeling.transformer.tokens import Tokens, flatten_maps, padding_masks

__all__ = [
    "REM",
    "ContextExpert",
    "DINOCriterion",
    "DINODecoder",
    "Decoded",
    "DeformableEncoder",
    "Denoising",
    "DenoisingQueries",
    "DensityQueries",
    "DetailExpert",
    "FrozenExpert",
    "LocalExpert",
    "Proposals",
    "QuerySelection",
    "Routed",
    "Tokens",
    "WideExpert",
    "density_target",
    "flatten_maps",
    "padding_masks",
]
