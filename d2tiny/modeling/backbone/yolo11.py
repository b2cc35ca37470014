"""Backbone of YOLO11 (docs/papers/rs_tinynet.md#yolo11-baseline)."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from d2tiny.layers import C2PSA, SPP, C3k2, ConvBN
from d2tiny.modeling.backbone.staged import StagedBackbone, rounded

__all__ = ["YOLO11Backbone"]


class YOLO11Backbone(StagedBackbone):
    """Each stage is a convolution of stride 2 and a :class:`~d2tiny.layers.C3k2`; c5 also has pooling and attention."""

    def __init__(
        self,
        *,
        depth: float = 0.5,
        width: float = 1.0,
        max_channels: int = 512,
        c3k: bool = True,
        out_features: Sequence[str] = ("c3", "c4", "c5"),
    ) -> None:
        """Set the size.

        Args:
            depth: factor on the number of blocks of a stage, two.
            width: factor on the channels. n is depth 0.5, width 0.25; s 0.5 and 0.5; m 0.5 and 1; l 1 and 1.
            max_channels: limit of the channels before the factor; 1,024 in n and s, 512 in m and l.
            c3k: use the larger blocks in all stages (m, l) or in the last two only (n, s).
            out_features: names of the stages to return, of ``c2``, ``c3``, ``c4``, ``c5``.

        Raises:
            ValueError: an unknown stage.
        """
        stem, enter2, c2, c3, c4, c5 = (rounded(min(c, max_channels) * width) for c in (64, 128, 256, 512, 512, 1024))
        count = max(round(2 * depth), 1)
        stages = (
            nn.Sequential(ConvBN(stem, enter2, 3, 2), C3k2(enter2, c2, count, c3k=c3k, expansion=0.25)),
            nn.Sequential(ConvBN(c2, c2, 3, 2), C3k2(c2, c3, count, c3k=c3k, expansion=0.25)),
            nn.Sequential(ConvBN(c3, c4, 3, 2), C3k2(c4, c4, count, c3k=True)),
            nn.Sequential(ConvBN(c4, c5, 3, 2), C3k2(c5, c5, count, c3k=True), SPP(c5, c5), C2PSA(c5, count)),
        )
        super().__init__(ConvBN(3, stem, 3, 2), stages, (c2, c3, c4, c5), out_features)
