"""The meta-architecture that lets a CfgNode name a lazy config."""

from __future__ import annotations

from detectron2.config import CfgNode, instantiate
from detectron2.modeling import META_ARCH_REGISTRY
from omegaconf import DictConfig, OmegaConf
from torch import nn

from d2tiny.config.defaults import read_key
from d2tiny.config.lazy import load_config
from d2tiny.utils.errors import ConfigError

__all__ = ["SHARED_KEYS", "LazyModel"]

# Test-time settings that applications edit in a CfgNode, and where the lazy config keeps them.
SHARED_KEYS = {
    "MODEL.ROI_HEADS.SCORE_THRESH_TEST": "model.roi_heads.box_predictor.test_score_thresh",
    "MODEL.ROI_HEADS.NMS_THRESH_TEST": "model.roi_heads.box_predictor.test_nms_thresh",
    "TEST.DETECTIONS_PER_IMAGE": "model.roi_heads.box_predictor.test_topk_per_image",
    "MODEL.ROI_HEADS.NUM_CLASSES": "model.roi_heads.num_classes",
}


def shared_overrides(cfg: CfgNode, lazy: DictConfig) -> None:
    """Copy :data:`SHARED_KEYS` from the CfgNode into the lazy config, where the latter has them."""
    for key, path in SHARED_KEYS.items():
        if OmegaConf.select(lazy, path) is not None:
            OmegaConf.update(lazy, path, read_key(cfg, key))


@META_ARCH_REGISTRY.register()
def LazyModel(cfg: CfgNode) -> nn.Module:
    """Build the model of ``cfg.D2TINY.LAZY_CONFIG``.

    It is the very model that training builds, so checkpoints fit. Edits of :data:`SHARED_KEYS` in the CfgNode
    (score threshold, NMS, detections, classes) are obeyed.

    Raises:
        ConfigError: no lazy config is named.
    """
    if not cfg.D2TINY.LAZY_CONFIG:
        raise ConfigError("META_ARCHITECTURE LazyModel needs D2TINY.LAZY_CONFIG; use d2tiny.model_zoo.get_cfg.")
    lazy = load_config(cfg.D2TINY.LAZY_CONFIG, cfg.D2TINY.LAZY_OVERRIDES)
    shared_overrides(cfg, lazy)
    return instantiate(lazy.model)
