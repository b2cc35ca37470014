"""Detectron2's ROI pooler with a fast path on the CPU."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from detectron2.layers import ROIAlign
from detectron2.modeling.poolers import ROIPooler, assign_boxes_to_levels, convert_boxes_to_pooler_format
from detectron2.structures import Boxes
from torch import Tensor, nn

from d2tiny.ops.roi_align import roi_align
from d2tiny.utils.tracing import is_traced

__all__ = ["TinyROIPooler"]


class TinyROIPooler(nn.Module):
    """Pools with our ROIAlign kernel on the CPU, and with Detectron2's pooler everywhere else.

    Everywhere else means on a GPU, in a traced or compiled graph, in other types than float32, and with other kinds of
    pooling than aligned ROIAlign.
    """

    def __init__(self, pooler: ROIPooler) -> None:
        """Take over the settings of ``pooler``."""
        super().__init__()
        self.pooler = pooler
        levels = pooler.level_poolers
        self.aligned = all(type(level) is ROIAlign and level.aligned for level in levels)
        self.scales = [level.spatial_scale for level in levels] if self.aligned else []

    @property
    def output_size(self) -> tuple[int, int]:
        """Height and width of the pooled features in bins."""
        height, width = self.pooler.output_size
        return int(height), int(width)

    def forward(self, x: list[Tensor], box_lists: list[Boxes]) -> Tensor:
        """Pool feature maps (B, C, H_l, W_l) in the boxes of each image to (R, C, h, w)."""
        (pooled,) = self.chunks(x, box_lists, None)
        return pooled

    def chunks(self, x: list[Tensor], box_lists: list[Boxes], size: int | None = 512) -> Iterator[Tensor]:
        """Pool ``size`` boxes at a time, in their order; all at once for None and where the kernel is not used.

        The box head can then reuse the memory of the previous chunk: 3,000 boxes at once need 150 MB.

        Raises:
            ValueError: boxes of another number of images than the feature maps.
        """
        if len(box_lists) != len(x[0]):
            raise ValueError(f"TinyROIPooler: boxes of {len(box_lists)} images for maps of {len(x[0])}.")
        on_cpu = all(level.device.type == "cpu" and level.dtype == torch.float32 for level in x)
        if is_traced() or not on_cpu or not self.aligned or not box_lists:
            yield self.pooler(x, box_lists)
            return
        settings = self.pooler
        levels = assign_boxes_to_levels(
            box_lists, settings.min_level, settings.max_level, settings.canonical_box_size, settings.canonical_level
        )
        # Boxes with NaN or of negative area get no valid level; the kernel handles them on any.
        levels = levels.clamp(0, len(x) - 1)
        sampling = settings.level_poolers[0].sampling_ratio
        rois = convert_boxes_to_pooler_format(box_lists)
        step = size or max(len(rois), 1)
        if len(rois) > step:
            x = [level.contiguous(memory_format=torch.channels_last) for level in x]  # once, not for every chunk
        for start in range(0, max(len(rois), 1), step):
            part = slice(start, start + step)
            yield roi_align(x, rois[part], levels[part], self.output_size, self.scales, sampling)
