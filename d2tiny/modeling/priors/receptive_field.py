"""Effective receptive fields as priors (RFLA, ECCV 2022, section 3.1)."""

from __future__ import annotations

from collections.abc import Sequence

from detectron2.config import configurable
from detectron2.modeling.anchor_generator import (
    ANCHOR_GENERATOR_REGISTRY,
    DefaultAnchorGenerator,
)

from d2tiny.modeling.priors.grid import snap_cell_anchors

__all__ = ["RFAnchorGenerator", "receptive_fields"]


def receptive_fields(first_level: int = 2, num_levels: int = 5) -> list[float]:
    """Return the side of the theoretical receptive field of each level of a ResNet-50 FPN, in px.

    The recursion is that of the released code: each 3×3 convolution adds twice the current jump. P2 to P7 have
    [35, 91, 267, 427, 555, 811].

    Args:
        first_level: number of the first level, 2 for P2.
        num_levels: number of levels.

    Raises:
        ValueError: levels outside P2..P7.
    """
    if first_level < 2 or num_levels < 1 or first_level + num_levels > 8:
        raise ValueError(f"Receptive fields are known for P2..P7, not for {num_levels} levels from P{first_level}.")
    jump = [2**i for i in range(8)]
    side = 1 + 6 * jump[0] + 2 * jump[1]  # 7×7 stride 2, then max-pool
    fields = []
    for level, convs in zip((2, 3, 4, 5), (3, 3, 5, 2), strict=True):
        if level > 2:
            side += 2 * jump[level - 1]  # the strided 3×3 still moves at the old jump
        side += 2 * convs * jump[level]
        fields.append(float(side))
    for level in (6, 7):
        side += 2 * jump[level]
        fields.append(float(side))
    return fields[first_level - 2 : first_level - 2 + num_levels]


@ANCHOR_GENERATOR_REGISTRY.register()
class RFAnchorGenerator(DefaultAnchorGenerator):
    """Generates anchors whose side is a fraction of the level's theoretical receptive field.

    They serve both label assignment and box regression. Differences from the paper: sides are rounded to
    2⁻⁹ px (see :data:`d2tiny.modeling.priors.grid.SNAP`).
    """

    @configurable
    def __init__(
        self,
        *,
        strides: Sequence[int],
        fraction: float = 0.5,
        aspect_ratios: Sequence[float] = (0.5, 1.0, 2.0),
        first_level: int | None = None,
        offset: float = 0.0,
    ) -> None:
        """Compute the cell anchors.

        Args:
            strides: stride of each level in px, from P{first_level} on.
            fraction: effective / theoretical receptive field; 0.5 in all released RFLA configs.
            aspect_ratios: height / width of the anchors of a cell, which all have the same area.
            first_level: number of the first level (2 for P2); by default the level with the first stride.
            offset: position of the first anchor in units of the stride, in [0, 1).

        Raises:
            ValueError: ``fraction`` is not positive or the levels are outside P2..P7.
        """
        if fraction <= 0:
            raise ValueError(f"RFAnchorGenerator: fraction must be > 0, got {fraction}.")
        if first_level is None:
            first_level = int(strides[0]).bit_length() - 1
        sizes = [[fraction * side] for side in receptive_fields(first_level, len(strides))]
        super().__init__(sizes=sizes, aspect_ratios=[list(aspect_ratios)], strides=list(strides), offset=offset)
        for i, cells in enumerate(list(self.cell_anchors)):
            setattr(self.cell_anchors, str(i), snap_cell_anchors(cells))

    @classmethod
    def from_config(cls, cfg, input_shape):  # type: ignore[no-untyped-def]  # noqa: D102
        strides = [shape.stride for shape in input_shape]
        return {
            "strides": strides,
            "fraction": cfg.MODEL.ANCHOR_GENERATOR.RF_FRACTION,
            "aspect_ratios": cfg.MODEL.ANCHOR_GENERATOR.ASPECT_RATIOS[0],
            "offset": cfg.MODEL.ANCHOR_GENERATOR.OFFSET,
        }
