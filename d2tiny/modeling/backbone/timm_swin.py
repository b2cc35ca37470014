"""Blocks of timm's Swin transformers that pad a map before they shift its windows, as Swin does in detection.

timm shifts a map and pads it afterwards, so that the mask of shifted windows, which is made for the padded size, does
not lie where the map wraps round: rows of one border attend to those of the opposite one
(github.com/huggingface/pytorch-image-models/issues/2438). It shows where a map's sides are no multiples of the window,
which they are in classification and hardly ever in detection. A map that is padded already is not padded by timm.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch.nn.functional as F
from timm.models.swin_transformer import SwinTransformerBlock
from timm.models.swin_transformer_v2 import SwinTransformerV2Block
from timm.models.swin_transformer_v2_cr import SwinTransformerV2CrBlock
from torch import Tensor, nn

from d2tiny.utils.errors import ConfigError

__all__ = ["pad_before_shift"]


def pad_before_shift(body: nn.Module) -> None:
    """Let the blocks of a Swin, a Swin v2 or timm's own Swin v2 pad first.

    Raises:
        ConfigError: timm has other blocks than those that this module knows.
    """
    known = [module for module in body.modules() if type(module) in _PADDED]
    if not known or not all(hasattr(module, _PADDED[type(module)].replaced) for module in known):
        raise ConfigError("the blocks of this Swin are not those that d2tiny knows; it was tested with timm 1.0.31.")
    for module in known:
        module.__class__ = _PADDED[type(module)]  # the parameters stay, and the class can be copied and pickled


def _attend(attend: Callable[[Tensor], Tensor], x: Tensor, window: Sequence[int]) -> Tensor:
    """Attend in windows that a map (B, H, W, C) fills, and cut what was added."""
    height, width = x.shape[1], x.shape[2]
    extra = (-height % window[0], -width % window[1])
    return attend(F.pad(x, (0, 0, 0, extra[1], 0, extra[0])))[:, :height, :width]


class _SwinBlock(SwinTransformerBlock):
    replaced = "_attn"

    def _attn(self, x: Tensor) -> Any:
        return _attend(super()._attn, x, self.window_size)


class _SwinV2Block(SwinTransformerV2Block):
    replaced = "_attn"

    def _attn(self, x: Tensor) -> Any:
        return _attend(super()._attn, x, self.window_size)


class _SwinV2CrBlock(SwinTransformerV2CrBlock):
    replaced = "_shifted_window_attn"

    def _shifted_window_attn(self, x: Tensor) -> Any:
        return _attend(super()._shifted_window_attn, x, self.window_size)


_PADDED: dict[type[nn.Module], Any] = {
    SwinTransformerBlock: _SwinBlock,
    SwinTransformerV2Block: _SwinV2Block,
    SwinTransformerV2CrBlock: _SwinV2CrBlock,
}
