"""Detectron2's RoIAlign layer with a fast path on processors."""

from __future__ import annotations

import torch
from detectron2.layers import ROIAlign
from detectron2.modeling.poolers import ROIPooler
from torch import Tensor

from d2tiny.ops.roi_align import roi_align

__all__ = ["TinyROIAlign", "use_fast_roi_align"]


class TinyROIAlign(ROIAlign):
    """RoIAlign: ours on processors, torchvision's on a GPU and where a graph is traced or compiled."""

    def forward(self, input: Tensor, rois: Tensor) -> Tensor:
        """Pool (B, C, H, W) in boxes (R, 5), index and XYXY, to (R, C, h, w)."""
        traced = torch.jit.is_tracing() or torch.jit.is_scripting() or torch.compiler.is_compiling()
        if traced or not self.aligned or input.device.type != "cpu" or input.dtype != torch.float32:
            return super().forward(input, rois)
        height, width = self.output_size
        return roi_align(input, rois, (height, width), self.spatial_scale, self.sampling_ratio)


def use_fast_roi_align(pooler: ROIPooler) -> None:
    """Put :class:`TinyROIAlign` in the place of each ``ROIAlign`` of a pooler; other kinds of pooling stay."""
    for index, level in enumerate(pooler.level_poolers):
        if type(level) is ROIAlign:
            pooler.level_poolers[index] = TinyROIAlign(
                level.output_size, level.spatial_scale, level.sampling_ratio, aligned=level.aligned
            )
