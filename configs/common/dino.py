"""Parts of detection transformers; each function takes a model's config and alters it."""

from detectron2.config import LazyCall as L

from d2tiny.modeling.transformer import (
    REM,
    ContextExpert,
    DensityQueries,
    DetailExpert,
    LocalExpert,
    WideExpert,
)


def five_scales(model):
    """One more level, of stride 4: 53,294 tokens at 800² px."""
    stages, neck = model.backbone.backbone, model.backbone.neck
    stages.out_features = neck.in_features = ["res2", "res3", "res4", "res5"]
    neck.in_channels = [neck.in_channels[0] // 2, *neck.in_channels]
    model.in_features = ["m0", "m1", "m2", "m3", "m4"]
    model.encoder.num_levels = 5


def dgq(model, **settings):
    """Density-guided queries (DGQ) of ScaleBridge-Det; see docs/papers/scalebridge.md."""
    model.density = L(DensityQueries)(embed_dim="${..embed_dim}", **settings)
    model.selection.num_queries = max(model.density.get("buckets", [1500]))


def rem(model, **settings):
    """Routed mixture attention (REM) of ScaleBridge-Det with light experts; see docs/papers/scalebridge.md."""
    width = "${....embed_dim}"
    model.routing = L(REM)(
        experts=[L(expert)(embed_dim=width) for expert in (LocalExpert, DetailExpert, WideExpert, ContextExpert)],
        embed_dim="${..embed_dim}",
        num_heads="${..encoder.num_heads}",
        **settings,
    )


def quick(model):
    """ResNet-18, 128 channels, scales from stride 4, two encoder and three decoder layers: for a processor."""
    stages, neck = model.backbone.backbone, model.backbone.neck
    stages.stem.norm = "BN"
    stages.stages = dict(_target_=stages.stages._target_, depth=18, norm="BN")
    stages.freeze_at = 0
    stages.out_features = neck.in_features = ["res2", "res3", "res4", "res5"]
    neck.in_channels, neck.extra = [64, 128, 256, 512], len(model.in_features) - 4
    model.embed_dim = 128
    model.encoder.update(num_layers=2, num_heads=4, feedforward_dim=256)
    model.decoder.num_layers = 3
    if model.density is None:
        model.selection.num_queries = 300
