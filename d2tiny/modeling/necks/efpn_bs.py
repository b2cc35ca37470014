"""E-FPN-BS: context enhancement (CEM) and foreground-background separation (FBSM), arXiv 2506.09897."""

from __future__ import annotations

from collections.abc import Sequence

import fvcore.nn.weight_init as weight_init
import torch
from detectron2.layers import ShapeSpec
from torch import Tensor, nn
from torch.nn import functional as F

from d2tiny.utils.errors import did_you_mean
from d2tiny.utils.registry import NECK_REGISTRY

__all__ = ["CEM", "EFPNBS", "FBSM"]


def _convs(*convs: nn.Conv2d) -> list[nn.Module]:
    for conv in convs:
        weight_init.c2_msra_fill(conv)
    return list(convs)


class CEM(nn.Module):
    """Context enhancement: adds a global vector of the high level to the low level (eq. 1-3).

    ``C = ReLU(W · maxpool₁ₓ₁(P_h) + b) + P_l``. The paper both broadcasts and bilinearly upsamples the vector;
    for a 1×1 map that is the same.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.project = nn.Conv2d(channels, channels, 1)
        weight_init.c2_xavier_fill(self.project)

    def forward(self, high: Tensor, low: Tensor) -> Tensor:
        """Map (B, C, h, w) and (B, C, H, W) to (B, C, H, W)."""
        return low + F.relu(self.project(F.adaptive_max_pool2d(high, 1)))


class FBSM(nn.Module):
    """Foreground-background separation: gates the low level with a mask of both levels (eq. 4-8).

    ``M_h, M_l`` = sigmoid of 3×3-ReLU-1×1 of the upsampled high level and of the low level,
    ``M = σ(3×3(M_h + M_l))``, output ``ReLU(3×3(C ⊙ M))``.

    Differences from the paper, which contradicts itself here (SPEC §3.2): masks have one channel by default, and the
    refinement has no skip unless ``residual``. ``light`` is ours: wide 3×3 convolutions are depth-wise separable, and
    the high level's mask is made at its own size and then upsampled; a tenth of the multiply-adds.
    """

    def __init__(
        self,
        channels: int,
        *,
        mid_channels: int = 64,
        gate_channels: int = 1,
        residual: bool = False,
        light: bool = False,
    ) -> None:
        super().__init__()
        self.light = light
        self.gate_high = self._gate(channels, mid_channels, gate_channels, light)
        self.gate_low = self._gate(channels, mid_channels, gate_channels, light)
        (self.fuse,) = _convs(nn.Conv2d(gate_channels, gate_channels, 3, padding=1))
        if light:
            depthwise = nn.Conv2d(channels, channels, 3, padding=1, groups=channels, bias=False)
            self.refine: nn.Module = nn.Sequential(*_convs(depthwise, nn.Conv2d(channels, channels, 1)))
        else:
            (self.refine,) = _convs(nn.Conv2d(channels, channels, 3, padding=1))
        self.residual = residual

    @staticmethod
    def _gate(channels: int, mid_channels: int, gate_channels: int, light: bool) -> nn.Sequential:
        if light:
            depthwise = nn.Conv2d(mid_channels, mid_channels, 3, padding=1, groups=mid_channels)
            squeeze = _convs(nn.Conv2d(channels, mid_channels, 1, bias=False), depthwise)
        else:
            squeeze = _convs(nn.Conv2d(channels, mid_channels, 3, padding=1))
        logit = nn.Conv2d(mid_channels, gate_channels, 1)
        # Starts near σ(0) everywhere, so that training begins from an even mask.
        nn.init.normal_(logit.weight, std=0.01)
        assert logit.bias is not None
        nn.init.zeros_(logit.bias)
        return nn.Sequential(*squeeze, nn.ReLU(), logit, nn.Sigmoid())

    def mask(self, high: Tensor, low: Tensor) -> Tensor:
        """Return M in (0, 1), (B, gate_channels, H, W)."""

        def up(x: Tensor) -> Tensor:
            return F.interpolate(x, size=low.shape[-2:], mode="bilinear", align_corners=False)

        mask_high = up(self.gate_high(high)) if self.light else self.gate_high(up(high))
        return torch.sigmoid(self.fuse(mask_high + self.gate_low(low)))

    def forward(self, high: Tensor, low: Tensor) -> Tensor:
        """Map (B, C, h, w) and (B, C, H, W) to (B, C, H, W)."""
        refined = F.relu_(self.refine(low * self.mask(high, low)))
        return low + refined if self.residual else refined


@NECK_REGISTRY.register()
class EFPNBS(nn.Module):
    """Replaces low pyramid levels by CEM + FBSM of a high and the low level; all others pass unchanged.

    Names, channels, strides and sizes stay, so the neck fits behind any FPN. The high level is pooled before it is
    upsampled (pooling the upsampled map would change the maximum).
    """

    def __init__(
        self,
        *,
        channels: int,
        pairs: Sequence[Sequence[str]] = (("p5", "p2"),),
        cem: bool = True,
        fbsm: bool = True,
        mid_channels: int = 64,
        gate_channels: int = 1,
        residual: bool = False,
        light: bool = False,
    ) -> None:
        """Build one CEM and one FBSM for each pair.

        Args:
            channels: C of all levels.
            pairs: (high level, low level) names; the low one is replaced.
            cem: use context enhancement.
            fbsm: use foreground-background separation.
            mid_channels: width of the gates.
            gate_channels: 1 (a spatial mask) or ``channels``.
            residual: add the input to FBSM's output.
            light: depth-wise separable convolutions in FBSM (ours, not the paper's).

        Raises:
            ValueError: both modules off, a pair that is no pair, or a low level twice.
        """
        super().__init__()
        if not (cem or fbsm):
            raise ValueError("EFPNBS: cem and fbsm are both off; leave the neck out instead.")
        self.pairs = tuple((str(high), str(low)) for high, low in pairs)
        lows = [low for _, low in self.pairs]
        if not self.pairs or len(set(lows)) != len(lows) or any(h == lo for h, lo in self.pairs):
            raise ValueError(
                f"EFPNBS: pairs must name different high and low levels, each low one once; got {self.pairs}."
            )
        if gate_channels not in (1, channels):
            raise ValueError(f"EFPNBS: gate_channels must be 1 or {channels}, got {gate_channels}.")
        self.cem = nn.ModuleDict({low: CEM(channels) for low in lows} if cem else {})
        self.fbsm = nn.ModuleDict()
        if fbsm:
            for low in lows:
                self.fbsm[low] = FBSM(
                    channels,
                    mid_channels=mid_channels,
                    gate_channels=gate_channels,
                    residual=residual,
                    light=light,
                )

    def output_shape(self, input_shape: dict[str, ShapeSpec]) -> dict[str, ShapeSpec]:
        """Names, channels and strides of the output: those of the input."""
        return input_shape

    def forward(self, features: dict[str, Tensor]) -> dict[str, Tensor]:
        """Return the pyramid with the low levels replaced; the input dict is not modified.

        Raises:
            KeyError: a level of ``pairs`` is missing; says which exist.
        """
        result = dict(features)
        for high_name, low_name in self.pairs:
            for name in (high_name, low_name):
                if name not in features:
                    raise KeyError(f"EFPNBS: no level '{name}'. {did_you_mean(name, features)}")
            high, low = features[high_name], features[low_name]
            if low_name in self.cem:
                low = self.cem[low_name](high, low)
            if low_name in self.fbsm:
                low = self.fbsm[low_name](high, low)
            result[low_name] = low
        return result
