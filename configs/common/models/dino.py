"""DINO as tiny objects need it: 1,500 detections, queries that start from boxes of two cells."""

from detectron2.config import LazyCall as L

from d2tiny.modeling.assigners import HungarianMatcher
from d2tiny.modeling.meta_arch import TinyDINO
from d2tiny.modeling.necks import ChannelMapper, NeckedBackbone
from d2tiny.modeling.transformer import DeformableEncoder, Denoising, DINOCriterion, DINODecoder, QuerySelection

from .rcnn import PIXEL_MEAN, PIXEL_STD, for_weights_of, on_lite0, resnet18, resnet50, timm_backbone


def _dino(stages, extra, num_classes):
    """DINO on the features of a backbone and ``extra`` coarser levels."""
    levels = len(stages.out_features) + extra
    return L(TinyDINO)(
        backbone=L(NeckedBackbone)(
            backbone=stages,
            neck=L(ChannelMapper)(
                in_features="${..backbone.out_features}",
                in_channels="${channels:${..backbone},${.in_features}}",
                channels="${...embed_dim}",
                extra=extra,
                norm="GN",
            ),
        ),
        in_features=[f"m{i}" for i in range(levels)],
        num_classes=num_classes,
        embed_dim=256,
        encoder=L(DeformableEncoder)(
            embed_dim="${..embed_dim}",
            num_layers=6,
            num_heads=8,
            num_levels=levels,
            num_points=4,
            feedforward_dim=2048,
            checkpointing=False,
        ),
        selection=L(QuerySelection)(
            num_classes="${..num_classes}",
            embed_dim="${..embed_dim}",
            num_queries=900,
            base_cells=2.0,
            delta_unit="box",
        ),
        decoder=L(DINODecoder)(
            num_classes="${..num_classes}",
            embed_dim="${..embed_dim}",
            num_layers=6,
            num_heads="${..encoder.num_heads}",
            num_levels="${..encoder.num_levels}",
            num_points=4,
            feedforward_dim="${..encoder.feedforward_dim}",
            shared_heads=True,
            look_forward_twice=True,
            delta_unit="box",
            checkpointing=False,
        ),
        denoising=L(Denoising)(
            num_classes="${..num_classes}",
            embed_dim="${..embed_dim}",
            num_denoising=100,
            label_noise_ratio=0.5,
            box_noise_scale=1.0,
        ),
        criterion=L(DINOCriterion)(
            matcher=L(HungarianMatcher)(class_weight=2.0, l1_weight=5.0, giou_weight=2.0),
            class_weight=1.0,
            l1_weight=5.0,
            giou_weight=2.0,
        ),
        density=None,
        routing=None,
        cell_unit="stride",
        max_detections=1500,
        score_thresh=0.0,
        pixel_mean=PIXEL_MEAN,
        pixel_std=PIXEL_STD,
        input_format="RGB",
    )


def dino_r50_4scale(num_classes):
    """DINO with a ResNet-50 on four scales, the finest of stride 8."""
    return _dino(resnet50(("res3", "res4", "res5"), freeze_at=1), 1, num_classes)


def dino_r50_5scale(num_classes):
    """DINO with a ResNet-50 on five scales, the finest of stride 4: 53,294 tokens for 800x800 px."""
    return _dino(resnet50(freeze_at=1), 1, num_classes)


def dino_r18_4scale(num_classes):
    """A small DINO for quick trainings from random weights: ResNet-18, 128 channels, four scales from stride 4."""
    model = _dino(resnet18(), 0, num_classes)
    model.embed_dim = 128
    model.encoder.update(num_layers=2, num_heads=4, feedforward_dim=256)
    model.decoder.num_layers = 3
    model.selection.num_queries = 300
    return model


def dino_lite0_4scale(num_classes):
    """The same for quick trainings from ImageNet weights."""
    return on_lite0(dino_r18_4scale(num_classes))


def dino_timm_4scale(model_name, num_classes, **settings):
    """DINO with a model of timm (Swin, ConvNeXt, ...) on four scales, the finest of stride 8."""
    return for_weights_of(timm_backbone(model_name, **settings), dino_r50_4scale(num_classes))


def dino_timm_5scale(model_name, num_classes, **settings):
    """The same on five scales, the finest of stride 4."""
    return for_weights_of(timm_backbone(model_name, **settings), dino_r50_5scale(num_classes))
