"""Switchable atrous convolution (SAC) and the weight standardisation below it (DetectoRS, CVPR 2021, §4)."""

from __future__ import annotations

from typing import Any

import torch
from detectron2.layers import Conv2d
from torch import Tensor, nn
from torch.nn import functional as F

from d2tiny.layers.deform_conv import deform_conv2d

__all__ = ["ConvAWS2d", "SAConv2d"]

_EPS = 1e-5


def _statistics(weight: Tensor) -> tuple[Tensor, Tensor]:
    """Standard deviation and mean of each output channel's weights, (out, 1, 1, 1)."""
    variance = weight.var(dim=(1, 2, 3), keepdim=True) if weight[0].numel() > 1 else torch.zeros_like(weight[:, :1])
    return (variance + _EPS).sqrt(), weight.mean(dim=(1, 2, 3), keepdim=True)


class ConvAWS2d(Conv2d):
    """Convolution with adaptive weight standardisation: it uses ``γ·(W − mean)/std + β`` of each output channel.

    γ and β are buffers. They are set so that the first weights, and those of a checkpoint without γ and β, are used
    unchanged: what is trained is where the weights go from there.
    """

    weight_gamma: Tensor
    weight_beta: Tensor

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        """Take what Detectron2's ``Conv2d`` takes."""
        super().__init__(*args, **kwargs)
        self.register_buffer("weight_gamma", torch.ones(self.out_channels, 1, 1, 1))
        self.register_buffer("weight_beta", torch.zeros(self.out_channels, 1, 1, 1))
        self.keep_weights()

    @classmethod
    def like(cls, conv: Conv2d) -> ConvAWS2d:
        """Return a layer with the shape, weights, normalisation and activation of ``conv``."""
        new = cls(
            conv.in_channels,
            conv.out_channels,
            conv.kernel_size,
            stride=conv.stride,
            padding=conv.padding,
            dilation=conv.dilation,
            groups=conv.groups,
            bias=conv.bias is not None,
            norm=conv.norm,
            activation=conv.activation,
        )
        new.load_state_dict({k: v for k, v in conv.state_dict().items() if k in ("weight", "bias")}, strict=False)
        return new

    @torch.no_grad()
    def keep_weights(self) -> None:
        """Set γ and β so that the present weights are used unchanged."""
        gamma, beta = _statistics(self.weight)
        self.weight_gamma.copy_(gamma)
        self.weight_beta.copy_(beta)

    def effective_weight(self) -> Tensor:
        """Return the weights that are used, (out, in / groups, k, k)."""
        # γ·(W − mean)/std + β is batch normalisation in which every output channel is a channel with its weights as
        # places: one pass instead of six. It divides by n where the definition divides by n − 1.
        weight, n = self.weight, self.weight[0].numel()
        if n == 1:
            return weight - weight + self.weight_beta
        scale = ((n - 1) / n) ** 0.5
        out = F.batch_norm(
            weight.reshape(1, len(weight), n),
            None,
            None,
            weight=self.weight_gamma.flatten() * scale,
            bias=self.weight_beta.flatten(),
            training=True,
            eps=_EPS * scale**2,
        )
        return out.view_as(weight)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, in, H, W) to (B, out, H', W')."""
        out = F.conv2d(x, self.effective_weight(), self.bias, self.stride, self.padding, self.dilation, self.groups)
        return self._finish(out)

    def _finish(self, out: Tensor) -> Tensor:
        if self.norm is not None:
            out = self.norm(out)
        return out if self.activation is None else self.activation(out)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        weight = state_dict.get(f"{prefix}weight")
        if isinstance(weight, Tensor) and f"{prefix}weight_gamma" not in state_dict:
            gamma, beta = _statistics(weight.float())
            state_dict[f"{prefix}weight_gamma"], state_dict[f"{prefix}weight_beta"] = gamma, beta
        super()._load_from_state_dict(state_dict, prefix, *args)


class SAConv2d(ConvAWS2d):
    """3×3 convolution that mixes, at each place, two dilations of nearly the same weights.

    ``out = S · conv(x, W, d) + (1 − S) · conv(x, W + ΔW, 3d)`` where both convolutions are deformable and the switch S
    is a linear function of a 5×5 average; a global context is added before and after. At the start S = 1, ΔW = 0 and
    all offsets and contexts are zero, so the layer is the plain convolution.

    Differences from the paper: none known; as in the released code the switch has no sigmoid.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        """Take what Detectron2's ``Conv2d`` takes.

        Raises:
            ValueError: the kernel is not 3×3, the padding is not the dilation, or there are groups.
        """
        super().__init__(*args, **kwargs)
        if self.kernel_size != (3, 3) or self.groups != 1 or self.padding != self.dilation:
            raise ValueError(
                f"SAConv2d: needs a 3×3 kernel, padding equal to the dilation and no groups, got {self.kernel_size}, "
                f"{self.padding}, {self.dilation}, {self.groups}."
            )
        self.weight_diff = nn.Parameter(torch.zeros_like(self.weight))
        self.pre_context = nn.Conv2d(self.in_channels, self.in_channels, 1)
        self.post_context = nn.Conv2d(self.out_channels, self.out_channels, 1)
        self.switch = nn.Conv2d(self.in_channels, 1, 1, stride=self.stride)
        self.offset_small = nn.Conv2d(self.in_channels, 18, 3, padding=1, stride=self.stride)
        self.offset_large = nn.Conv2d(self.in_channels, 18, 3, padding=1, stride=self.stride)
        for layer in (self.pre_context, self.post_context, self.switch, self.offset_small, self.offset_large):
            nn.init.zeros_(layer.weight)
            assert layer.bias is not None
            nn.init.constant_(layer.bias, 1.0 if layer is self.switch else 0.0)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, in, H, W) to (B, out, H', W')."""
        x = x + self.pre_context(F.adaptive_avg_pool2d(x, 1))
        # Reflection needs more pixels than it mirrors.
        mode = "reflect" if min(x.shape[-2:]) > 2 else "replicate"
        average = F.avg_pool2d(F.pad(x, (2, 2, 2, 2), mode=mode), 5, stride=1)
        switch = self.switch(average)
        weight = self.effective_weight()
        small = self._deform(x, self.offset_small(average), weight, 1)
        large = self._deform(x, self.offset_large(average), weight + self.weight_diff, 3)
        out = switch * small + (1 - switch) * large
        return self._finish(out + self.post_context(F.adaptive_avg_pool2d(out, 1)))

    def _deform(self, x: Tensor, offset: Tensor, weight: Tensor, factor: int) -> Tensor:
        """Deformable convolution with ``factor`` times the dilation."""
        assert not isinstance(self.padding, str)
        (pad_y, pad_x), (step_y, step_x) = self.padding, self.dilation
        return deform_conv2d(
            x,
            offset,
            weight,
            self.bias,
            stride=self.stride,
            padding=(factor * pad_y, factor * pad_x),
            dilation=(factor * step_y, factor * step_x),
        )
