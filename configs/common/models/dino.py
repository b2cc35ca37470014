"""DINO (Zhang et al., ICLR 2023) with a ResNet-50 on four scales and 1,500 detections, for tiny objects."""

from detectron2.config import LazyCall as L
from detectron2.modeling.backbone import BasicStem, ResNet

from d2tiny.modeling.assigners import HungarianMatcher
from d2tiny.modeling.meta_arch import TinyDINO
from d2tiny.modeling.necks import ChannelMapper, NeckedBackbone
from d2tiny.modeling.transformer import DeformableEncoder, Denoising, DINOCriterion, DINODecoder, QuerySelection

model = L(TinyDINO)(
    backbone=L(NeckedBackbone)(
        backbone=L(ResNet)(
            stem=L(BasicStem)(in_channels=3, out_channels=64, norm="FrozenBN"),
            stages=L(ResNet.make_default_stages)(depth=50, stride_in_1x1=False, norm="FrozenBN"),
            out_features=["res3", "res4", "res5"],
            freeze_at=1,
        ),
        neck=L(ChannelMapper)(
            in_features=["res3", "res4", "res5"],
            in_channels=[512, 1024, 2048],
            channels="${...embed_dim}",
            extra=1,
            norm="GN",
        ),
    ),
    in_features=["m0", "m1", "m2", "m3"],
    num_classes=8,
    embed_dim=256,
    encoder=L(DeformableEncoder)(
        embed_dim="${..embed_dim}",
        num_layers=6,
        num_heads=8,
        num_levels=4,
        num_points=4,
        feedforward_dim=2048,
        checkpointing=False,
    ),
    selection=L(QuerySelection)(
        num_classes="${..num_classes}", embed_dim="${..embed_dim}", num_queries=900, base_cells=2.0
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
    max_detections=1500,
    score_thresh=0.0,
    pixel_mean=[123.675, 116.28, 103.53],
    pixel_std=[58.395, 57.12, 57.375],
    input_format="RGB",
)
