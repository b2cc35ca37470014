"""Recursive feature pyramid of DetectoRS (CVPR 2021, section 3): the pyramid is fed back into a second backbone."""

from __future__ import annotations

import copy
from typing import Any

import fvcore.nn.weight_init as weight_init
import torch
from detectron2.layers import ShapeSpec
from detectron2.modeling.backbone import FPN, Backbone
from torch import Tensor, nn
from torch.nn import functional as F

from d2tiny.layers.padding import masked_mean, padding_of_images, padding_of_level
from d2tiny.modeling.contracts import FeedbackBackbone

__all__ = ["ASPP", "RFP"]


class ASPP(nn.Module):
    """Atrous spatial pyramid pooling: four quarters of the output with receptive fields of different sizes.

    They are a 1×1 convolution, 3×3 convolutions with dilations 3 and 6, and a 1×1 convolution of the image's mean,
    without the padding of a batch.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        if channels % 4:
            raise ValueError(f"ASPP: channels must be a multiple of 4, got {channels}.")
        quarter = channels // 4
        self.near = nn.Conv2d(channels, quarter, 1)
        self.middle = nn.Conv2d(channels, quarter, 3, padding=3, dilation=3)
        self.far = nn.Conv2d(channels, quarter, 3, padding=6, dilation=6)
        self.whole = nn.Conv2d(channels, quarter, 1)
        for conv in (self.near, self.middle, self.far, self.whole):
            weight_init.c2_msra_fill(conv)

    def forward(self, x: Tensor, padding: Tensor | None = None) -> Tensor:
        """Map (B, C, H, W) to the same shape.

        Args:
            x: a level.
            padding: (B, 1, h, w) of the batch of images, True in the padding; None without padding.
        """
        parts = [F.relu(conv(x)) for conv in (self.near, self.middle, self.far)]
        cells = None if padding is None else padding_of_level(padding, x)
        image_mean = F.relu(self.whole(masked_mean(x, cells)))
        return torch.cat([*parts, image_mean.expand_as(parts[0])], dim=1)


class _Identity(Backbone):
    """Stands for the backbone of an FPN that is applied to features instead of an image."""

    def __init__(self, shapes: dict[str, ShapeSpec]) -> None:
        super().__init__()
        self._shapes = shapes

    def forward(self, features: dict[str, Tensor]) -> dict[str, Tensor]:
        return features

    def output_shape(self) -> dict[str, ShapeSpec]:
        return self._shapes


def fpn_on_features(fpn: FPN) -> FPN:
    """Return an FPN with the layers of ``fpn`` that maps the features of its backbone, instead of an image, to levels.

    The layers are shared, not copied, and ``fpn`` is not modified.
    """
    result = copy.copy(fpn)
    result._modules = dict(fpn._modules)  # a shallow copy shares this dict, in which the backbone is replaced
    result.bottom_up = _Identity(fpn.bottom_up.output_shape())
    return result


class RFP(Backbone):
    """FPN whose levels are fed back through ASPP into a second backbone, whose pyramid is fused with the first one.

    At each level ``out = g · new + (1 − g) · old`` with ``g = σ(1×1(new))``, which starts at 0.5. Both pyramids use the
    same FPN layers. Difference from the paper's figure, as in the released code: the second backbone has weights of its
    own (``second=None`` shares them).

    A checkpoint with a single backbone (ImageNet weights, or those of a detector with an ordinary FPN) is loaded into
    both backbones, and the layers of an ordinary FPN into those of this one.
    """

    def __init__(self, *, fpn: FPN, second: FeedbackBackbone | None = None, steps: int = 2) -> None:
        """Join the parts.

        Args:
            fpn: Detectron2's FPN over a :class:`DetectoRSResNet`, or a :class:`TimmBackbone` (a recursive pyramid
                without switchable convolutions); its layers and backbone are used, it is not modified.
            second: the backbone of the later steps, of the same kind, a ResNet with a prefix; None uses the first one.
            steps: number of passes through a backbone; 1 is the plain FPN.

        Raises:
            ValueError: a backbone that takes no feedback of the FPN's channels, or a second one without a prefix.
        """
        super().__init__()
        first = fpn.bottom_up
        later = second if second is not None else first
        channels = {shape.channels for shape in fpn.output_shape().values()}
        if not hasattr(first, "feedback_channels") or not isinstance(later, type(first)):
            raise ValueError(
                "RFP: both backbones must be a DetectoRSResNet, or both a TimmBackbone; got "
                f"{type(first).__name__} and {type(later).__name__}."
            )
        if steps < 1 or later.feedback_channels not in channels:
            raise ValueError(
                f"RFP: needs steps >= 1 and a backbone for the later looks with feedback_channels={min(channels)}, got "
                f"steps={steps}, feedback_channels={later.feedback_channels}."
            )
        if first.output_shape() != later.output_shape():
            raise ValueError(
                "RFP: both backbones must return the same stages with the same channels (depth, out_features); got "
                f"{first.output_shape()} and {later.output_shape()}."
            )
        if second is not None and (getattr(second, "prefix", "none needed") == "" or first.feedback_channels):
            raise ValueError("RFP: give the second backbone a prefix, and feedback_channels only to the second.")
        self.steps = steps
        self.bottom_up, self.second = first, second
        self.fpn = fpn_on_features(fpn)
        self.aspp = ASPP(later.feedback_channels)
        self.gate = nn.Conv2d(later.feedback_channels, 1, 1)
        for parameter in self.gate.parameters():
            nn.init.zeros_(parameter)
        self._register_load_state_dict_pre_hook(self._fill_second)

    @property
    def size_divisibility(self) -> int:
        """That of the FPN."""
        return self.fpn.size_divisibility

    @property
    def padding_constraints(self) -> dict[str, int]:
        """Those of the FPN; Detectron2 main reads them, 0.6 does not."""
        return getattr(self.fpn, "padding_constraints", {})

    def output_shape(self) -> dict[str, ShapeSpec]:
        """Return channels and stride of each level: those of the FPN."""
        return self.fpn.output_shape()

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        """Map (B, 3, H, W) to the levels of the pyramid (B, C, H / stride, W / stride)."""
        pyramid, padding = self.fpn(self.bottom_up(image)), padding_of_images(image)
        later = self.bottom_up if self.second is None else self.second
        for _ in range(self.steps - 1):
            # The FPN's levels are in the order of the stages; stages without an entrance, as res2, take no feedback.
            stages = zip(self.fpn.in_features, pyramid, strict=False)
            feedback = {stage: self.aspp(pyramid[level], padding) for stage, level in stages if stage in later.feedback}
            new = self.fpn(later(image, feedback))
            pyramid = {name: self._fuse(new[name], pyramid[name]) for name in new}
        return pyramid

    def _fuse(self, new: Tensor, old: Tensor) -> Tensor:
        gate = torch.sigmoid(self.gate(new))
        return gate * new + (1 - gate) * old

    def _fill_second(self, state: dict[str, Any], prefix: str, *_: Any) -> None:
        """Rename and copy the tensors of a checkpoint with one backbone and an ordinary FPN before they are loaded."""
        for key in [k for k in state if k.startswith(f"{prefix}fpn_")]:
            state[f"{prefix}fpn.{key.removeprefix(prefix)}"] = state.pop(key)
        if self.second is None or any(key.startswith(f"{prefix}second.") for key in state):
            return
        for key in [k for k in state if k.startswith(f"{prefix}bottom_up.")]:
            name = key.removeprefix(f"{prefix}bottom_up.")
            # A copy: load_state_dict(assign=True) would make one tensor of the two.
            state[f"{prefix}second.{getattr(self.second, 'prefix', '')}{name}"] = state[key].clone()
