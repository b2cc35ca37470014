"""Parts of ScaleBridge-Det: each function puts one part into a DINO's config and returns the model."""

from detectron2.config import LazyCall as L

from d2tiny.modeling.transformer import (
    REM,
    ContextExpert,
    DensityQueries,
    DetailExpert,
    LocalExpert,
    WideExpert,
)


def dgq(model, **settings):
    """Density-guided queries; docs/papers/scalebridge.md."""
    model.density = L(DensityQueries)(embed_dim="${..embed_dim}", **settings)
    model.selection.num_queries = max(model.density.get("buckets", [1500]))
    return model


def rem(model, **settings):
    """Routed mixture attention with light experts; docs/papers/scalebridge.md."""
    model.routing = L(REM)(
        experts=[
            L(expert)(embed_dim="${....embed_dim}") for expert in (LocalExpert, DetailExpert, WideExpert, ContextExpert)
        ],
        embed_dim="${..embed_dim}",
        num_heads="${..encoder.num_heads}",
        **settings,
    )
    return model
