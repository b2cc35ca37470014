"""Frozen foundation models as further experts of REM: each function adds one to a model's config and returns it."""

from detectron2.config import LazyCall as L

from d2tiny.modeling.backbone import TimmBackbone, TimmViT
from d2tiny.modeling.transformer import FrozenExpert


def _add(model, backbone, in_features, settings):
    model.routing.experts.append(
        L(FrozenExpert)(
            backbone=backbone,
            in_features=in_features,
            embed_dim="${....embed_dim}",
            pixel_mean="${....pixel_mean}",
            pixel_std="${....pixel_std}",
            input_format="${....input_format}",
            **{"weights": "", **settings},  # empty: those that the backbone names
        )
    )
    return model


def vit_expert(model, model_name, **settings):
    """A plain vision transformer of timm, such as DINOv2: its one map, resampled to every level."""
    return _add(model, L(TimmViT)(model_name=model_name), ["vit"] * len(model.in_features), settings)


def timm_expert(model, model_name, **settings):
    """A model of timm with maps of strides 4 to 32, for levels of these strides; coarser levels read the last one."""
    stages = list(model.backbone.backbone.out_features)
    in_features = stages + stages[-1:] * (len(model.in_features) - len(stages))
    return _add(model, L(TimmBackbone)(model_name=model_name, out_features=stages), in_features, settings)
