"""Parts of ScaleBridge-Det: each function puts one part into a DINO's config and returns the model."""

from detectron2.config import LazyCall as L

from d2tiny.modeling.transformer import (
    DEFAULT_BUCKETS,
    DEFAULT_THRESHOLDS,
    REM,
    ContextExpert,
    CountClassifier,
    DensityQueries,
    DetailExpert,
    LocalExpert,
    TokenSparsity,
    WideExpert,
)

# Numbers of queries, and of objects from which on the next is taken, for images of at most some hundred objects.
FEW_OBJECTS = dict(buckets=[100, 200, 300, 500], thresholds=[10, 50, 150])


def dgq(model, **settings):
    """Density-guided queries, in training as many as the model had or more; docs/papers/scalebridge.md."""
    queries = settings.setdefault("train_queries", model.selection.num_queries)
    model.density = L(DensityQueries)(embed_dim="${..embed_dim}", num_levels="${..encoder.num_levels}", **settings)
    buckets = model.density.get("buckets", DEFAULT_BUCKETS)
    # as many as every training image takes: what all learn is shared by more queries
    model.selection.num_contents = min(max(queries, buckets[0]), buckets[-1])
    model.selection.num_queries = buckets[-1]
    return model


def count_classes(model, **settings):
    """A classifier of the number of objects as in DQ-DETR, on a model with density-guided queries."""
    model.density.rule = "classes"
    model.density.classifier = L(CountClassifier)(
        embed_dim="${...embed_dim}", thresholds=list(model.density.get("thresholds", DEFAULT_THRESHOLDS)), **settings
    )
    return model


def sparse(model, **settings):
    """An encoder that updates only tokens where objects may be, for a model with density-guided queries.

    A model without them gets a density map that chooses tokens, while all its queries are chosen by class as before.
    """
    if model.density is None:
        dgq(model, buckets=[model.selection.num_queries], thresholds=[], peak_share=0.0)
    model.density.source = "neck"
    model.encoder.sparsity = L(TokenSparsity)(**settings)
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
