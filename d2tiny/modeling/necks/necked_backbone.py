"""A backbone followed by a neck that keeps the pyramid's names and shapes."""

from __future__ import annotations

from typing import Any

from detectron2.layers import ShapeSpec
from detectron2.modeling.backbone import Backbone
from torch import Tensor, nn

__all__ = ["NeckedBackbone"]


class NeckedBackbone(Backbone):
    """Runs ``neck(backbone(image))`` and looks like the backbone from outside."""

    def __init__(self, *, backbone: Backbone, neck: nn.Module) -> None:
        """Join the two.

        Args:
            backbone: any Detectron2 backbone, for example an FPN.
            neck: maps a dict of features to one of the same names, channels and strides.

        Raises:
            ValueError: a neck that does not fit the backbone.
        """
        super().__init__()
        self.backbone = backbone
        self.neck: Any = neck  # a module with ``output_shape(input_shape)``
        self.output_shape()
        self._register_load_state_dict_pre_hook(self._accept_plain)

    @property
    def size_divisibility(self) -> int:
        """The backbone's."""
        return self.backbone.size_divisibility

    @property
    def padding_constraints(self) -> dict[str, int]:
        """The backbone's (Detectron2 main asks for it)."""
        return getattr(self.backbone, "padding_constraints", {})

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        """Map (B, 3, H, W) to the pyramid."""
        return self.neck(self.backbone(image))

    def _accept_plain(self, state: dict[str, Any], prefix: str, *_: Any) -> None:
        """Let a checkpoint of the backbone without the neck be loaded into the backbone."""
        own = [key for key in state if key.startswith(prefix)]
        if any(key.startswith((f"{prefix}backbone.", f"{prefix}neck.")) for key in own):
            return
        for key in own:
            state[f"{prefix}backbone.{key.removeprefix(prefix)}"] = state.pop(key)

    def output_shape(self) -> dict[str, ShapeSpec]:
        """Channels and stride of each level."""
        return self.neck.output_shape(self.backbone.output_shape())
