"""Meta-architecture with which a yacs config builds the model of a lazy config."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import torch
from detectron2.config import CfgNode, instantiate
from detectron2.modeling import META_ARCH_REGISTRY
from omegaconf import DictConfig, OmegaConf
from torch import nn

from d2tiny.config.defaults import read_key
from d2tiny.config.lazy import load_config
from d2tiny.config.shapes import build_node
from d2tiny.modeling.meta_arch.edits import refuse_ignored_edits
from d2tiny.modeling.meta_arch.inputs import require_batch
from d2tiny.utils.checkpoint_files import check_checkpoint
from d2tiny.utils.errors import CheckpointError, ConfigError
from d2tiny.utils.weights import OPTIONAL_WEIGHTS

__all__ = ["SHARED_KEYS", "LazyModel", "resize_by_factor", "shared_path"]

# Test-time settings that applications edit in a CfgNode, with their names in lazy configs: in the box predictor (of a
# cascade, in the last one), and in the dense head or in the model itself.
SHARED_KEYS = {
    "MODEL.ROI_HEADS.SCORE_THRESH_TEST": ("test_score_thresh", "score_thresh"),
    "MODEL.ROI_HEADS.NMS_THRESH_TEST": ("test_nms_thresh", "nms_thresh"),
    "TEST.DETECTIONS_PER_IMAGE": ("test_topk_per_image", "max_detections"),
    "MODEL.ROI_HEADS.NUM_CLASSES": ("num_classes", "num_classes"),
}


def shared_path(lazy: DictConfig, key: str) -> str | None:
    """Return the path in the lazy config of a key of :data:`SHARED_KEYS`; None if the model has no such setting."""
    in_predictor, in_head = SHARED_KEYS[key]
    stages = OmegaConf.select(lazy, "model.roi_heads.box_predictors")
    predictor = "box_predictor" if stages is None else f"box_predictors.{len(stages) - 1}"
    roi = "model.roi_heads" if in_predictor == "num_classes" else f"model.roi_heads.{predictor}"
    for path in (f"{roi}.{in_predictor}", f"model.head.{in_head}", f"model.{in_head}"):
        if OmegaConf.select(lazy, path) is not None:
            return path
    return None


def copy_shared_keys(cfg: CfgNode, lazy: DictConfig) -> None:
    """Copy :data:`SHARED_KEYS` from the CfgNode into the lazy config, in place, where the model has them.

    Raises:
        ConfigError: another key of the model was edited, which would have no effect.
    """
    paths = {key: shared_path(lazy, key) for key in SHARED_KEYS}
    refuse_ignored_edits(cfg, lazy, paths)
    for key, path in paths.items():
        if path is not None:
            OmegaConf.update(lazy, path, read_key(cfg, key))


@META_ARCH_REGISTRY.register()
def LazyModel(cfg: CfgNode) -> nn.Module:
    """Build the model of ``cfg.D2TINY.LAZY_CONFIG``.

    It is the same model that training builds, so its checkpoints fit. In evaluation mode, in which ``DefaultPredictor``
    loads checkpoints, others are refused, which would leave parts of the model at random. Edits of :data:`SHARED_KEYS`
    in the CfgNode (score threshold, NMS threshold, number of detections, classes) take effect. Inputs that are no
    images are refused. Where the config's test mapper resizes by a factor, the model does, too.

    Raises:
        ConfigError: no lazy config is named, or a key of the model was edited that would have no effect.
        CheckpointError: ``MODEL.WEIGHTS``, which Detectron2 loads afterwards by its own means, is damaged, or no
            checkpoint, or holds more than arrays.
    """
    if not cfg.D2TINY.LAZY_CONFIG:
        raise ConfigError("META_ARCHITECTURE LazyModel needs D2TINY.LAZY_CONFIG; use d2tiny.model_zoo.get_cfg.")
    if cfg.MODEL.WEIGHTS:
        check_checkpoint(cfg.MODEL.WEIGHTS)
    lazy = load_config(cfg.D2TINY.LAZY_CONFIG, cfg.D2TINY.LAZY_OVERRIDES)
    copy_shared_keys(cfg, lazy)
    model: nn.Module = build_node(lazy.model)
    model.register_load_state_dict_post_hook(_refuse_mismatch)
    model.register_forward_pre_hook(_require_images)
    if (resize := resize_by_factor(lazy)) is not None:
        model.register_forward_pre_hook(functools.partial(_resize_images, resize))
    return model


def resize_by_factor(lazy: DictConfig) -> Any:
    """Return the test mapper's augmentation that resizes images by a factor; None without one."""
    for augmentation in OmegaConf.select(lazy, "dataloader.test.mapper.augmentations") or []:
        target = augmentation.get("_target_")
        if str(getattr(target, "__name__", target)).rsplit(".", 1)[-1] == "ResizeByFactor":
            return instantiate(augmentation)
    return None


def _resize_images(resize: Any, model: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
    """Resize the images of a batch as the test mapper does; ``DefaultPredictor`` knows no factors.

    Detections come back in px of the image that was given. In training the mapper resizes images and objects.
    """
    if model.training:
        return args
    batch = []
    for item in args[0]:
        image = item["image"]
        pixels = image.permute(1, 2, 0).round().clamp(0, 255).to(torch.uint8).cpu().numpy()
        resized = resize.get_transform(pixels).apply_image(pixels)
        tensor = torch.as_tensor(np.ascontiguousarray(resized.transpose(2, 0, 1))).to(image)
        batch.append({"height": image.shape[1], "width": image.shape[2], **item, "image": tensor})
    return (batch, *args[1:])


def _require_images(model: nn.Module, args: tuple[Any, ...]) -> None:
    """Check the batch before the model's forward."""
    require_batch(model, *args)


def _refuse_mismatch(model: nn.Module, keys: Any) -> None:
    """Raise CheckpointError if tensors are missing or unexpected, in evaluation mode."""
    if model.training:
        return
    for names, what in ((keys.missing_keys, "missing in"), (keys.unexpected_keys, "too many in")):
        mismatched = [key for key in names if key not in OPTIONAL_WEIGHTS]
        if mismatched:
            raise CheckpointError(
                f"{len(mismatched)} tensors are {what} the checkpoint or of another shape (first: {mismatched[0]}). "
                "Is it of another config, or of another number of classes?"
            )
