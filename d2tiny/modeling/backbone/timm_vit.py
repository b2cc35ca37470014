"""Plain vision transformers of timm as backbones."""

from __future__ import annotations

from typing import Any

from detectron2.layers import ShapeSpec
from detectron2.modeling.backbone import Backbone
from torch import Tensor
from torch.nn import functional as F

from d2tiny.modeling.backbone.timm_backbone import normalisation, pretrained_cfg_of, take_timm_tensors
from d2tiny.utils.errors import ConfigError
from d2tiny.utils.timm_weights import import_timm

__all__ = ["TimmViT"]


class TimmViT(Backbone):
    """A vision transformer of timm with one feature map, ``vit``, of the stride of its patches: DINOv2, CLIP, SigLIP.

    Images of any size are taken: the table of positions is interpolated to their patches. The map is that of the last
    block, with each place normalised over its channels.

    Attributes:
        pixel_mean: RGB mean of the images that the weights were trained with, 0 to 255.
        pixel_std: likewise, the standard deviation.
        weights_url: where its weights are, as a checkpoint is named: ``timm://NAME``.
    """

    def __init__(self, model_name: str, **kwargs: Any) -> None:
        """Build the model with random weights.

        Args:
            model_name: as in ``timm.list_models()``, with a tag of weights as in ``timm.list_pretrained()`` or without.
            **kwargs: handed on to ``timm.create_model``.

        Raises:
            ConfigError: an unknown model, or one that is no plain vision transformer or has a fixed size of images.
            MissingPackageError: timm is not installed.
        """
        super().__init__()
        timm = import_timm()
        pretrained_cfg = pretrained_cfg_of(timm, model_name)
        settings = {"dynamic_img_size": True, "features_only": True, "out_indices": [-1], **kwargs}
        try:
            self.body = timm.create_model(model_name, pretrained=False, **settings)
        except (TypeError, RuntimeError, AssertionError, ValueError, NotImplementedError) as err:
            raise ConfigError(
                f"{model_name}: timm cannot build it as a plain vision transformer for images of any size: {err}"
            ) from err
        if len({block["reduction"] for block in self.body.feature_info.info}) != 1:
            raise ConfigError(
                f"{model_name} is no plain vision transformer: its maps have several strides; TimmBackbone takes it."
            )
        [self.stride], [self.channels] = self.body.feature_info.reduction(), self.body.feature_info.channels()
        self._architecture = model_name.partition(".")[0]
        self.pixel_mean, self.pixel_std = normalisation(model_name, pretrained_cfg)
        self.weights_url = f"timm://{model_name}"

    @property
    def size_divisibility(self) -> int:
        """Pixels that the padded height and width must be a multiple of: the side of a patch."""
        return int(self.stride)

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        """Map images (B, 3, H, W), with multiples of the stride as sides, to ``vit`` (B, C, H / stride, W / stride)."""
        [features] = self.body(image)
        return {"vit": F.layer_norm(features.permute(0, 2, 3, 1), (self.channels,)).permute(0, 3, 1, 2)}

    def output_shape(self) -> dict[str, ShapeSpec]:
        """Return channels and stride of the feature map."""
        return {"vit": ShapeSpec(channels=self.channels, stride=self.stride)}

    def adapt_state(self, state: dict[str, Any], prefix: str) -> set[str]:
        """Take the weights of ``timm://NAME`` into a state dict; see ``TimmBackbone.adapt_state``."""
        return take_timm_tensors(self.body, self._architecture, state, prefix)
