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

__all__ = ["pad_before_shift"]


def pad_before_shift(body: nn.Module) -> None:
    """Let the blocks of Swin, Swin v2 and timm's own Swin v2 in a model pad first; other models stay as they are."""
    for module in body.modules():
        if (kind := _PADDED.get(type(module))) is not None:
            module.__class__ = kind  # the parameters stay, and the class can be copied and pickled


def _attend(attend: Callable[[Tensor], Tensor], x: Tensor, window: Sequence[int]) -> Tensor:
    """Attend in windows that a map (B, H, W, C) fills, and cut what was added."""
    height, width = x.shape[1], x.shape[2]
    extra = (-height % window[0], -width % window[1])
    return attend(F.pad(x, (0, 0, 0, extra[1], 0, extra[0])))[:, :height, :width]


class _SwinBlock(SwinTransformerBlock):
    def _attn(self, x: Tensor) -> Any:
        return _attend(super()._attn, x, self.window_size)


class _SwinV2Block(SwinTransformerV2Block):
    def _attn(self, x: Tensor) -> Any:
        return _attend(super()._attn, x, self.window_size)


class _SwinV2CrBlock(SwinTransformerV2CrBlock):
    def _shifted_window_attn(self, x: Tensor) -> Any:
        return _attend(super()._shifted_window_attn, x, self.window_size)


_PADDED: dict[type[nn.Module], type[nn.Module]] = {
    SwinTransformerBlock: _SwinBlock,
    SwinTransformerV2Block: _SwinV2Block,
    SwinTransformerV2CrBlock: _SwinV2CrBlock,
}
