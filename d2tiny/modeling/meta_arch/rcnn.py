"""Detectron2's two-stage detector, with necks that have losses of their own."""

from __future__ import annotations

import math
from typing import Any

from detectron2.config import configurable
from detectron2.modeling import META_ARCH_REGISTRY
from detectron2.modeling.meta_arch import GeneralizedRCNN
from detectron2.structures import Instances
from detectron2.utils.events import get_event_storage, has_event_storage
from torch import Tensor

from d2tiny.layers.folding import prepare_for_inference
from d2tiny.modeling.meta_arch.foreground import area_under_roc, foreground, foreground_loss
from d2tiny.modeling.necks import EFPNBS

__all__ = ["TinyGeneralizedRCNN"]

_PERIOD = 20  # iterations between two looks at the masks


@META_ARCH_REGISTRY.register()
class TinyGeneralizedRCNN(GeneralizedRCNN):
    """``GeneralizedRCNN`` that trains and watches the masks of E-FPN-BS; everything else is Detectron2's.

    Its weights fit ``GeneralizedRCNN`` and the other way round. Where masks exist, every 20 iterations the log has
    ``mask_auc_p2``: how well the mask separates objects from background, ½ for not at all.
    """

    @configurable
    def __init__(self, **kwargs: Any) -> None:
        """Build the detector with the arguments of ``GeneralizedRCNN``."""
        super().__init__(**kwargs)
        prepare_for_inference(self)

    def forward(self, batched_inputs: list[dict[str, Any]]) -> Any:
        """Return losses by name in training, and detections otherwise, as ``GeneralizedRCNN`` does."""
        result = super().forward(batched_inputs)
        if not self.training:
            return result
        for neck in self.backbone.modules():
            if isinstance(neck, EFPNBS) and neck.masks:
                result |= self._of_masks(neck, [item["instances"].to(self.device) for item in batched_inputs])
        return result

    def _of_masks(self, neck: EFPNBS, instances: list[Instances]) -> dict[str, Tensor]:
        """Return the losses of the masks of a neck, and log how well they separate objects from background."""
        watch = has_event_storage() and get_event_storage().iter % _PERIOD == 0
        losses = {}
        for low, mask in neck.masks.items() if watch or neck.mask_loss_weight else ():
            stride = self.backbone.output_shape()[low].stride
            inside, valid = foreground(instances, stride, (mask.shape[-2], mask.shape[-1]))
            if neck.mask_loss_weight:
                losses[f"loss_mask_{low}"] = neck.mask_loss_weight * foreground_loss(mask, inside, valid)
            if watch:
                score = mask.detach().float().mean(dim=1)
                auc = area_under_roc(score[inside & valid], score[valid & ~inside])
                if not math.isnan(auc):
                    get_event_storage().put_scalar(f"mask_auc_{low}", auc)
        neck.masks = {}
        return losses
