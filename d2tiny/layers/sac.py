"""Switchable atrous convolution (SAC) with adaptive weight standardisation (DetectoRS, CVPR 2021, section 4)."""

from __future__ import annotations

from typing import Any

import torch
from detectron2.layers import Conv2d
from torch import Tensor, nn
from torch.nn import functional as F

from d2tiny.layers.deform_conv import deform_conv2d
from d2tiny.layers.padding import masked_mean, padding_of_level
from d2tiny.utils.tracing import is_traced

__all__ = ["ConvAWS2d", "SAConv2d"]

_EPS = 1e-5


def _statistics(weight: Tensor) -> tuple[Tensor, Tensor]:
    """Return standard deviation and mean of the weights of each output channel, both (out, 1, 1, 1)."""
    variance = weight.var(dim=(1, 2, 3), keepdim=True) if weight[0].numel() > 1 else torch.zeros_like(weight[:, :1])
    return (variance + _EPS).sqrt(), weight.mean(dim=(1, 2, 3), keepdim=True)


def _context(x: Tensor, padding: Tensor | None) -> Tensor:
    """Return the mean of each image of (B, C, H, W), (B, C, 1, 1)."""
    return masked_mean(x, None if padding is None else padding_of_level(padding, x))


def _bordered(x: Tensor) -> Tensor:
    """Return (B, C, H, W) with two more pixels at each side, reflected; repeated where a side has under 3 pixels."""
    if not is_traced():
        mode = "reflect" if min(x.shape[-2:]) > 2 else "replicate"
        return F.pad(x, (2, 2, 2, 2), mode=mode)
    # A graph for images of any size has both rules.
    enough = [torch.zeros(1, dtype=torch.int64, device=x.device) + x.shape[dim] > 2 for dim in (2, 3)]
    for dim in (2, 3):
        place = torch.arange(-2, x.shape[dim] + 2, device=x.device)
        last = x.shape[dim] - 1
        reflected, repeated = last - (last - place.abs()).abs(), place.clamp(min=0, max=last)
        x = x.index_select(dim, torch.where(enough[0] & enough[1], reflected, repeated))
    return x


class ConvAWS2d(Conv2d):
    """Convolution with adaptive weight standardisation (AWS): its weights are ``γ·(W − mean)/std + β`` by channel.

    Mean and standard deviation are those of an output channel. γ and β are buffers, initialised so that the initial
    weights, or those of a checkpoint without γ and β, are used unchanged.
    """

    weight_gamma: Tensor
    weight_beta: Tensor

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        """Create the layer with the arguments of Detectron2's ``Conv2d``."""
        super().__init__(*args, **kwargs)
        self.register_buffer("weight_gamma", torch.ones(self.out_channels, 1, 1, 1))
        self.register_buffer("weight_beta", torch.zeros(self.out_channels, 1, 1, 1))
        self.reset_affine()

    @classmethod
    def from_conv(cls, conv: Conv2d) -> ConvAWS2d:
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
    def reset_affine(self) -> None:
        """Set γ and β so that the current weights are used unchanged."""
        gamma, beta = _statistics(self.weight)
        self.weight_gamma.copy_(gamma)
        self.weight_beta.copy_(beta)

    def standardized_weight(self) -> Tensor:
        """Return the standardised weights, (out, in / groups, k, k)."""
        # γ·(W − mean)/std + β is batch normalisation over the n weights of each output channel: one pass instead of
        # six. Batch normalisation divides the variance by n, the definition by n − 1.
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
        out = F.conv2d(x, self.standardized_weight(), self.bias, self.stride, self.padding, self.dilation, self.groups)
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
    """Switchable atrous convolution: a 3×3 convolution that switches between two dilation rates at each location.

    ``out = S · conv(x, W, d) + (1 − S) · conv(x, W + ΔW, 3d)``, where both convolutions are deformable and the switch S
    is a linear function of a 5×5 average; a global context, without the padding of a batch, is added before and after.
    Initially S = 1, ΔW = 0 and all offsets and contexts are zero, so that the layer equals the ordinary convolution.

    Differences from the paper: none known; as in the released code the switch has no sigmoid.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        """Create the layer with the arguments of Detectron2's ``Conv2d``.

        Raises:
            ValueError: the kernel is not 3×3, the padding differs from the dilation, or there are several groups.
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

    def forward(self, x: Tensor, padding: Tensor | None = None) -> Tensor:
        """Map (B, in, H, W) to (B, out, H', W').

        Args:
            x: the input.
            padding: (B, 1, h, w) of the batch of images, True in the padding; None without padding.
        """
        x = x + self.pre_context(_context(x, padding))
        average = F.avg_pool2d(_bordered(x), 5, stride=1)
        switch = self.switch(average)
        weight = self.standardized_weight()
        small = self._deform(x, self.offset_small(average), weight, 1)
        large = self._deform(x, self.offset_large(average), weight + self.weight_diff, 3)
        out = switch * small + (1 - switch) * large
        return self._finish(out + self.post_context(_context(out, padding)))

    def _deform(self, x: Tensor, offset: Tensor, weight: Tensor, factor: int) -> Tensor:
        """Apply the deformable convolution with ``factor`` times the dilation."""
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
