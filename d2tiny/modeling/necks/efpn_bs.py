"""E-FPN-BS: context enhancement (CEM) and foreground-background separation (FBSM), arXiv 2506.09897."""

from __future__ import annotations

from collections.abc import Sequence

import fvcore.nn.weight_init as weight_init
import torch
from detectron2.layers import ShapeSpec, get_norm
from torch import Tensor, nn
from torch.nn import functional as F

from d2tiny.layers.padding import masked_max, padding_of_level
from d2tiny.utils.errors import did_you_mean
from d2tiny.utils.registry import NECK_REGISTRY

__all__ = ["CEM", "EFPNBS", "FBSM", "FORMS"]

# What FBSM makes of the gated map: the paper's equation 8, and controls that change one thing of it.
FORMS = {
    "printed": "ReLU(3×3(C ⊙ M))",
    "scaled": "C + γ·ReLU(3×3(C ⊙ M)), γ learned from 0",
    "doubled": "ReLU(3×3(C ⊙ 2M)): a mask of ½ changes nothing",
    "signed": "3×3(C ⊙ M), with both signs as the other levels have",
    "normed": "the printed form, normalised over the channels of each cell",
}


def _convs(*convs: nn.Conv2d) -> list[nn.Module]:
    for conv in convs:
        weight_init.c2_msra_fill(conv)
    return list(convs)


def _zero(conv: nn.Conv2d) -> None:
    nn.init.zeros_(conv.weight)
    assert conv.bias is not None
    nn.init.zeros_(conv.bias)


class CEM(nn.Module):
    """Context enhancement: adds a global vector of the high level to the low level (eq. 1-3).

    ``C = ReLU(W · maxpool₁ₓ₁(P_h) + b) + P_l``. The paper both broadcasts the vector and upsamples it bilinearly, which
    is the same for a 1×1 map.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.project = nn.Conv2d(channels, channels, 1)
        weight_init.c2_xavier_fill(self.project)

    def forward(self, high: Tensor, low: Tensor, padding: Tensor | None = None) -> Tensor:
        """Map the high level (B, C, h, w) and the low level (B, C, H, W) to (B, C, H, W).

        Args:
            high: the level whose maximum is added.
            low: the level that it is added to.
            padding: (B, 1, h, w), True where the high level shows no part of the image; None without padding.
        """
        return low + F.relu(self.project(masked_max(high, padding)))


def conv_of_upsampled(conv: nn.Conv2d, x: Tensor, size: tuple[int, int]) -> Tensor:
    """Compute ``conv(F.interpolate(x, size, mode="bilinear"))`` without the large map.

    Both are linear, so their order can be exchanged: the nine taps of the kernel are applied to the small map, then one
    matrix for each direction upsamples and shifts. From 25² to 200² with 256 channels, to 64, this takes 0.4 instead of
    5.9 GMAC.

    Args:
        conv: 3×3, stride 1, padding 1, with bias.
        x: (B, C, h, w).
        size: (H, W) of the output.

    Returns:
        (B, O, H, W), equal up to rounding.
    """
    batch, channels, *small = x.shape
    kernels = conv.weight.permute(2, 3, 0, 1).reshape(9 * conv.out_channels, channels, 1, 1)
    taps = F.conv2d(x, kernels).view(batch, 3, 3, conv.out_channels, *small)
    rows, columns = (_upsample_and_shift(taps, n, m) for n, m in zip(small, size, strict=True))
    out = taps.permute(0, 3, 1, 4, 2, 5).reshape(batch, conv.out_channels, 3 * small[0], 3 * small[1]) @ columns
    out = rows.t() @ out
    return out if conv.bias is None else out + conv.bias[:, None, None]


def _upsample_and_shift(like: Tensor, small: int, large: int) -> Tensor:
    """Return the (3·small, large) weights of each small pixel, read by each of three taps, in each large pixel."""
    exact = torch.promote_types(like.dtype, torch.float32)
    eye = torch.eye(small, device=like.device, dtype=exact)[:, None]
    weights = F.interpolate(eye, size=large, mode="linear", align_corners=False)[:, 0]
    padded = F.pad(weights, (1, 1))
    return torch.cat([padded[:, tap : tap + large] for tap in range(3)]).to(like.dtype)


def _fusion(channels: int, gain: float = 4.0) -> nn.Conv2d:
    """Build the 3×3 convolution before the last sigmoid so that training begins with masks near ½ that can learn.

    The sum of the two masks is about 1 at first: its mean over 3×3, less 1, is scaled by ``gain``, which makes up for
    the slope ¼ of a sigmoid.
    """
    fuse = nn.Conv2d(channels, channels, 3, padding=1)
    assert fuse.bias is not None
    with torch.no_grad():
        fuse.weight.zero_()
        fuse.weight[range(channels), range(channels)] = gain / 9
        fuse.bias.fill_(-gain)
    return fuse


class FBSM(nn.Module):
    """Foreground-background separation: gates the low level with a mask made of both levels (eq. 4-8).

    ``M_h, M_l`` are the sigmoid of 3×3-ReLU-1×1 of the upsampled high level and of the low level,
    ``M = σ(3×3(M_h + M_l))``, and the output is ``ReLU(3×3(C ⊙ M))``.

    The paper contradicts itself here (docs/papers/efpn_bs.md): masks have one channel by default, and its text speaks
    of a residual refinement that equation 8 does not have. With ``residual`` the output is ``C + 3×3(C ⊙ M)``, which
    starts as C: without a ReLU, because the heads share their weights with levels that have both signs. The other
    forms change one thing of the equation each, to see what it does (``FORMS``).
    """

    def __init__(
        self,
        channels: int,
        *,
        mid_channels: int = 64,
        gate_channels: int = 1,
        residual: bool = False,
        form: str = "printed",
    ) -> None:
        super().__init__()
        self.gate_high = self._gate(channels, mid_channels, gate_channels)
        self.gate_low = self._gate(channels, mid_channels, gate_channels)
        self.fuse = _fusion(gate_channels)
        self.refine = nn.Conv2d(channels, channels, 3, padding=1)
        if residual:
            _zero(self.refine)
        else:
            weight_init.c2_msra_fill(self.refine)
        self.residual, self.form = residual, form
        self.scale = nn.Parameter(torch.zeros(())) if form == "scaled" else None
        self.norm = get_norm("LN", channels) if form == "normed" else None

    @staticmethod
    def _gate(channels: int, mid_channels: int, gate_channels: int) -> nn.Sequential:
        squeeze = _convs(nn.Conv2d(channels, mid_channels, 3, padding=1))
        return nn.Sequential(*squeeze, nn.ReLU(), nn.Conv2d(mid_channels, gate_channels, 1), nn.Sigmoid())

    def mask(self, high: Tensor, low: Tensor) -> Tensor:
        """Return the mask M in (0, 1), (B, gate_channels, H, W)."""
        squeeze, *rest = self.gate_high
        assert isinstance(squeeze, nn.Conv2d)
        mask = conv_of_upsampled(squeeze, high, (low.shape[-2], low.shape[-1]))
        for layer in rest:
            mask = layer(mask)
        return torch.sigmoid(self.fuse(mask + self.gate_low(low)))

    def forward(self, high: Tensor, low: Tensor) -> tuple[Tensor, Tensor]:
        """Map the high level (B, C, h, w) and the low level (B, C, H, W) to (B, C, H, W) and the mask."""
        mask = self.mask(high, low)
        refined = self.refine(low * (2 * mask if self.form == "doubled" else mask))
        if self.residual:
            return low + refined, mask
        if self.form == "signed":
            return refined, mask
        refined = F.relu_(refined)
        if self.scale is not None:
            refined = low + self.scale * refined
        return (refined if self.norm is None else self.norm(refined)), mask


class LightFBSM(nn.Module):
    """FBSM at a twentieth of the multiply-adds; ours, not the paper's.

    All large 3×3 convolutions become depth-wise ones of ``mid_channels``: the low level is squeezed once, for its gate
    and for the refinement; the high level's mask is computed at its own size and then upsampled; and the refinement of
    the gated map is added to the low level. It starts as the identity.
    """

    def __init__(self, channels: int, *, mid_channels: int = 64) -> None:
        super().__init__()

        def depthwise() -> nn.Conv2d:
            return nn.Conv2d(mid_channels, mid_channels, 3, padding=1, groups=mid_channels)

        def gate() -> nn.Sequential:
            return nn.Sequential(*_convs(depthwise()), nn.ReLU(), nn.Conv2d(mid_channels, 1, 1), nn.Sigmoid())

        self.squeeze_high, self.squeeze_low = _convs(
            nn.Conv2d(channels, mid_channels, 1), nn.Conv2d(channels, mid_channels, 1)
        )
        self.gate_high, self.gate_low = gate(), gate()
        self.fuse = _fusion(1)
        (self.refine,) = _convs(depthwise())
        self.expand = nn.Conv2d(mid_channels, channels, 1)
        _zero(self.expand)

    def mask(self, high: Tensor, low: Tensor) -> Tensor:
        """Return the mask in (0, 1), (B, 1, H, W)."""
        return self._mask(high, self.squeeze_low(low))

    def _mask(self, high: Tensor, squeezed: Tensor) -> Tensor:
        mask = F.interpolate(
            self.gate_high(self.squeeze_high(high)), size=squeezed.shape[-2:], mode="bilinear", align_corners=False
        )
        return torch.sigmoid(self.fuse(mask + self.gate_low(squeezed)))

    def forward(self, high: Tensor, low: Tensor) -> tuple[Tensor, Tensor]:
        """Map the high level (B, C, h, w) and the low level (B, C, H, W) to (B, C, H, W) and the mask."""
        squeezed = self.squeeze_low(low)
        mask = self._mask(high, squeezed)
        return low + self.expand(F.relu_(self.refine(squeezed * mask))), mask


@NECK_REGISTRY.register()
class EFPNBS(nn.Module):
    """Replaces low pyramid levels by CEM and FBSM of a high level and the low level; others are passed on unchanged.

    Names, channels, strides and sizes stay the same, so the neck fits behind any FPN. The high level is pooled before
    it is upsampled (upsampling first would change the maximum), without the padding of the batch.

    Attributes:
        masks: (B, gate_channels, H, W) masks of the last batch by low level, in training only.
        mask_loss_weight: what the detector multiplies the loss of the masks with.
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
        form: str = "printed",
        light: bool = False,
        mask_loss_weight: float = 0.0,
    ) -> None:
        """Build one CEM and one FBSM for each pair.

        Args:
            channels: C of all levels.
            pairs: names of (high level, low level); the low one is replaced.
            cem: use context enhancement.
            fbsm: use foreground-background separation.
            mid_channels: hidden channels of the gates.
            gate_channels: channels of the mask, 1 (a spatial mask) or ``channels``.
            residual: add the refinement to the input, instead of replacing it.
            form: one of :data:`FORMS`, without ``residual``.
            mask_loss_weight: factor on the loss that teaches the masks where objects are (ours, not the paper's); needs
                a detector that asks for it, as :class:`~d2tiny.modeling.meta_arch.TinyGeneralizedRCNN` does.
            light: use :class:`LightFBSM` (ours, not the paper's), which has one gate channel and a skip connection.

        Raises:
            ValueError: both modules off, a malformed pair, a low level twice, or settings that ``light`` does not have.
        """
        super().__init__()
        if not (cem or fbsm):
            raise ValueError("EFPNBS: cem and fbsm are both off; leave the neck out instead.")
        if any(isinstance(pair, str) or len(pair) != 2 for pair in pairs):
            raise ValueError(f"EFPNBS: pairs must be a list of [high, low], for example [[p5,p2]]; got {list(pairs)}.")
        self.pairs = tuple((str(high), str(low)) for high, low in pairs)
        lows = [low for _, low in self.pairs]
        if not self.pairs or len(set(lows)) != len(lows) or any(h == lo for h, lo in self.pairs):
            raise ValueError(
                f"EFPNBS: pairs must name different high and low levels, each low one once; got {self.pairs}."
            )
        if gate_channels not in (1, channels):
            raise ValueError(f"EFPNBS: gate_channels must be 1 or {channels}, got {gate_channels}.")
        if form not in FORMS:
            raise ValueError(f"EFPNBS: unknown form '{form}'. {did_you_mean(form, FORMS)}")
        if form != "printed" and (residual or light or not fbsm):
            raise ValueError(
                f"EFPNBS: form='{form}' is one of FBSM as printed, with no other skip; got fbsm={fbsm}, light={light}, "
                f"residual={residual}."
            )
        if light and (gate_channels != 1 or residual or not fbsm):
            raise ValueError(
                f"EFPNBS: light is another FBSM, with one gate channel and always a skip; got fbsm={fbsm}, "
                f"gate_channels={gate_channels}, residual={residual}."
            )
        if mask_loss_weight < 0 or (mask_loss_weight and not fbsm):
            raise ValueError(f"EFPNBS: mask_loss_weight must be 0 or, with fbsm, above, got {mask_loss_weight}.")
        self.channels = channels
        self.mask_loss_weight = mask_loss_weight
        self.masks: dict[str, Tensor] = {}
        self.cem = nn.ModuleDict({low: CEM(channels) for low in lows} if cem else {})
        self.fbsm = nn.ModuleDict()
        if fbsm:
            for low in lows:
                self.fbsm[low] = (
                    LightFBSM(channels, mid_channels=mid_channels)
                    if light
                    else FBSM(
                        channels,
                        mid_channels=mid_channels,
                        gate_channels=gate_channels,
                        residual=residual,
                        form=form,
                    )
                )

    def output_shape(self, input_shape: dict[str, ShapeSpec]) -> dict[str, ShapeSpec]:
        """Return channels and stride of each output: those of the input.

        Raises:
            ValueError: a level of ``pairs`` is missing or has other channels, or the high level is not the coarser one.
        """
        for pair in self.pairs:
            for name in pair:
                if name not in input_shape:
                    raise ValueError(f"EFPNBS: no level '{name}' for pairs. {did_you_mean(name, input_shape)}")
                if input_shape[name].channels not in (None, self.channels):
                    raise ValueError(
                        f"EFPNBS: channels is {self.channels}, but level '{name}' has {input_shape[name].channels}."
                    )
            high, low = (input_shape[name].stride for name in pair)
            if high is not None and low is not None and high <= low:
                raise ValueError(f"EFPNBS: pairs are [high, low]; '{pair[0]}' is not coarser than '{pair[1]}'.")
        return input_shape

    def forward(self, features: dict[str, Tensor], padding: Tensor | None = None) -> dict[str, Tensor]:
        """Return the pyramid with the low levels replaced; the input dict is not modified.

        Args:
            features: (B, C, H, W) by name.
            padding: (B, 1, H, W) of the batch of images, True in the padding; None without padding.

        Raises:
            KeyError: a level of ``pairs`` is missing; says which exist.
        """
        result = dict(features)
        self.masks = {}
        for high_name, low_name in self.pairs:
            for name in (high_name, low_name):
                if name not in features:
                    raise KeyError(f"EFPNBS: no level '{name}'. {did_you_mean(name, features)}")
            high, low = features[high_name], features[low_name]
            if low_name in self.cem:
                low = self.cem[low_name](high, low, None if padding is None else padding_of_level(padding, high))
            if low_name in self.fbsm:
                low, mask = self.fbsm[low_name](high, low)
                if self.training:
                    self.masks[low_name] = mask
            result[low_name] = low
        return result
