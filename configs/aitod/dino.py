"""DINO and ScaleBridge-Det on AI-TOD."""

from ..common.data import aitod
from ..common.models.dino import dino_r50_4scale, dino_r50_5scale, dino_timm_4scale, dino_timm_5scale
from ..common.models.rcnn import CONVNEXT_T, SWIN_S, SWIN_T
from ..common.parts.dino import dgq, rem, sparse
from ..common.parts.experts import vit_expert
from ..common.recipes import dino_adamw, experiment

DATASET = aitod()
K = DATASET.num_classes


def _on_timm(build, name):
    """DINO on a model of timm, 12 epochs: norms of its maps, drop path 0.2, a tenth of the rate, as DINO's Swin."""
    model = build(name, K, drop_path_rate=0.2, out_norm=True)
    return experiment(model, dino_adamw(DATASET, epochs=12, weights=f"timm://{name}"))


def dino_convnext_t_5scale_12e():
    """DINO with a ConvNeXt-T on five scales on AI-TOD, 12 epochs."""
    return _on_timm(dino_timm_5scale, CONVNEXT_T)


def dino_r50_4scale_12e():
    """DINO with a ResNet-50 on four scales on AI-TOD, 12 epochs."""
    return experiment(dino_r50_4scale(K), dino_adamw(DATASET, epochs=12))


def dino_r50_5scale_12e():
    """DINO with a ResNet-50 on five scales on AI-TOD, 12 epochs."""
    return experiment(dino_r50_5scale(K), dino_adamw(DATASET, epochs=12))


def dino_r50_5scale_dgq_12e():
    """DINO with density-guided queries on AI-TOD, 12 epochs."""
    return experiment(dgq(dino_r50_5scale(K), warmup=DATASET.iterations(16)), dino_adamw(DATASET, epochs=12))


def dino_r50_5scale_rem_12e():
    """DINO with routed mixture attention on AI-TOD, 12 epochs."""
    return experiment(rem(dino_r50_5scale(K)), dino_adamw(DATASET, epochs=12))


def dino_r50_5scale_sparse_12e():
    """DINO on AI-TOD whose encoder updates only tokens where objects may be, 12 epochs."""
    return experiment(sparse(dino_r50_5scale(K)), dino_adamw(DATASET, epochs=12))


def dino_swin_s_5scale_12e():
    """DINO with a Swin-S on five scales on AI-TOD, 12 epochs."""
    return _on_timm(dino_timm_5scale, SWIN_S)


def dino_swin_t_4scale_12e():
    """DINO with a Swin-T on four scales on AI-TOD, 12 epochs."""
    return _on_timm(dino_timm_4scale, SWIN_T)


def dino_swin_t_5scale_12e():
    """DINO with a Swin-T on five scales on AI-TOD, 12 epochs."""
    return _on_timm(dino_timm_5scale, SWIN_T)


def scalebridge_r50_5scale_12e():
    """ScaleBridge-Det on AI-TOD, 12 epochs."""
    return experiment(rem(dgq(dino_r50_5scale(K), warmup=DATASET.iterations(16))), dino_adamw(DATASET, epochs=12))


def scalebridge_r50_5scale_dinov2_24e():
    """ScaleBridge-Det with a frozen DINOv2 (ViT-S/14) as a further general expert on AI-TOD, 24 epochs."""
    model = rem(dgq(dino_r50_5scale(K), warmup=DATASET.iterations(16)))
    model = vit_expert(model, "vit_small_patch14_dinov2.lvd142m", name="dinov2")
    return experiment(model, dino_adamw(DATASET, epochs=24))


def scalebridge_r50_5scale_sparse_12e():
    """ScaleBridge-Det on AI-TOD whose encoder updates only tokens where objects may be, 12 epochs."""
    model = sparse(rem(dgq(dino_r50_5scale(K), warmup=DATASET.iterations(16))))
    return experiment(model, dino_adamw(DATASET, epochs=12))
