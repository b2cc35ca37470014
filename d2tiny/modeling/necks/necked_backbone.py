"""A backbone followed by a neck."""

from __future__ import annotations

import inspect
from typing import Any, cast

from detectron2.layers import ShapeSpec
from detectron2.modeling.backbone import Backbone as D2Backbone
from torch import Tensor

from d2tiny.layers.padding import padding_of_images
from d2tiny.modeling.contracts import Backbone, Neck, PoolingNeck

__all__ = ["NeckedBackbone"]


class NeckedBackbone(D2Backbone):
    """Runs ``neck(backbone(image))``; it is a backbone itself, so that necks can follow one another."""

    backbone: Backbone
    neck: Neck

    def __init__(self, *, backbone: Backbone, neck: Neck) -> None:
        """Join the two.

        Args:
            backbone: any Detectron2 backbone, for example an FPN.
            neck: maps its feature maps to others. One whose ``forward`` has a parameter ``padding`` is told which
                places of the batch are padding, (B, 1, H, W), or None.

        Raises:
            ValueError: a neck that does not fit the backbone.
        """
        super().__init__()
        self.backbone, self.neck = backbone, neck
        self._pools = "padding" in inspect.signature(neck.forward).parameters
        self.output_shape()  # the neck refuses features that it was not built for
        self._register_load_state_dict_pre_hook(self._accept_plain)

    @property
    def size_divisibility(self) -> int:
        """That of the backbone."""
        return self.backbone.size_divisibility

    @property
    def padding_constraints(self) -> dict[str, int]:
        """Those of the backbone; Detectron2 main reads them, 0.6 does not."""
        return getattr(self.backbone, "padding_constraints", {})

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        """Map (B, 3, H, W) to feature maps (B, C, H / stride, W / stride)."""
        features = self.backbone(image)
        if not self._pools:
            return self.neck(features)
        return cast(PoolingNeck, self.neck)(features, padding_of_images(image))

    def _accept_plain(self, state: dict[str, Any], prefix: str, *_: Any) -> None:
        """Let a checkpoint of the backbone without the neck be loaded into the backbone."""
        own = [key for key in state if key.startswith(prefix)]
        if any(key.startswith((f"{prefix}backbone.", f"{prefix}neck.")) for key in own):
            return
        for key in own:
            state[f"{prefix}backbone.{key.removeprefix(prefix)}"] = state.pop(key)

    def output_shape(self) -> dict[str, ShapeSpec]:
        """Return channels and stride of each feature map."""
        return self.neck.output_shape(self.backbone.output_shape())
