"""Priors on regular grids, stored as a description of the grids instead of N boxes."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from d2tiny.ops.boxes import xyxy_to_cxcywh
from d2tiny.ops.grid_topk import PriorGrids

__all__ = ["SNAP", "GridLevel", "GridPriors", "snap_cell_anchors"]

# If cell anchors are multiples of this, all coordinates are exact in float32 up to 8192 px, so that label assignment on
# the grid and on boxes computes with the same numbers. The rounding moves no side by more than 0.001 px.
SNAP = 2.0**-10


def snap_cell_anchors(cell_anchors: Tensor) -> Tensor:
    """Round cell anchors (A, 4), centres to multiples of 2⁻¹⁰ px and sizes to multiples of 2⁻⁹ px."""
    half = torch.round((cell_anchors[:, 2:] - cell_anchors[:, :2]) / 2 / SNAP) * SNAP
    centre = torch.round((cell_anchors[:, 2:] + cell_anchors[:, :2]) / 2 / SNAP) * SNAP
    return torch.cat((centre - half, centre + half), dim=1)


@dataclass(frozen=True)
class GridLevel:
    """The priors of one feature map.

    Attributes:
        stride: distance between neighbouring cells in px.
        height: rows of the feature map.
        width: columns of the feature map.
        cell_anchors: (A, 4) float32 XYXY in px, relative to the position of the cell.
        offset: position of cell (0, 0) in units of the stride (Detectron2's ``ANCHOR_GENERATOR.OFFSET``).
    """

    stride: int
    height: int
    width: int
    cell_anchors: Tensor
    offset: float = 0.0


class GridPriors:
    """The priors of an image: levels × rows × columns × cell anchors, in Detectron2's order.

    Assigners search the description (:attr:`prior_grids`); :meth:`boxes` computes the N boxes, for decoding and for
    assigners that need all of them.
    """

    def __init__(self, levels: list[GridLevel]) -> None:
        """Set the levels, finest first.

        Raises:
            ValueError: a level has a stride below 1 or cell anchors of a wrong shape.
        """
        for i, level in enumerate(levels):
            if level.stride < 1 or level.cell_anchors.dim() != 2 or level.cell_anchors.shape[1] != 4:
                raise ValueError(
                    f"Level {i}: stride {level.stride} must be >= 1 and cells "
                    f"{tuple(level.cell_anchors.shape)} must be (A, 4)."
                )
        self.levels = tuple(levels)

    def __len__(self) -> int:
        """Return N, the number of priors."""
        return sum(lv.height * lv.width * len(lv.cell_anchors) for lv in self.levels)

    @property
    def device(self) -> torch.device:
        """Device of the priors."""
        return self.levels[0].cell_anchors.device if self.levels else torch.device("cpu")

    @cached_property
    def level_boxes(self) -> list[Tensor]:
        """Boxes of each level, (H·W·A, 4) float32 XYXY in px; not to be modified."""
        result = []
        for level in self.levels:
            shift_x = (torch.arange(level.width, device=self.device) + level.offset) * level.stride
            shift_y = (torch.arange(level.height, device=self.device) + level.offset) * level.stride
            y, x = torch.meshgrid(shift_y, shift_x, indexing="ij")
            shifts = torch.stack((x, y, x, y), dim=-1).reshape(-1, 1, 4).float()
            result.append((shifts + level.cell_anchors.float()).reshape(-1, 4))
        return result

    @cached_property
    def _boxes(self) -> Tensor:
        return torch.cat(self.level_boxes) if self.levels else torch.zeros(0, 4)

    def boxes(self) -> Tensor:
        """Return the boxes of all levels, (N, 4) float32 XYXY in px; not to be modified."""
        return self._boxes

    def strides(self) -> Tensor:
        """Return the stride of each prior's level, (N,) float32 in px."""
        parts = [torch.full((lv.height * lv.width * len(lv.cell_anchors),), float(lv.stride)) for lv in self.levels]
        return torch.cat(parts).to(self.device) if parts else torch.zeros(0)

    def usable(self) -> Tensor | None:
        """Return which priors may be trained, (N,) bool; None where all of them may."""
        return None

    def inside(self, image_size: tuple[int, int], margin: float) -> GridPriors:
        """Return the priors without those that leave the image, for an assignment; indices stay as they are.

        As in Detectron2 a prior is inside if ``x1, y1 >= -margin``, ``x2 < width + margin``, ``y2 < height + margin``.

        Args:
            image_size: (height, width) of the image in px, without padding.
            margin: px by which a prior may stick out; a negative one keeps all priors.
        """
        return self if margin < 0 else _InsidePriors(self, image_size, margin)

    @cached_property
    def prior_grids(self) -> PriorGrids:
        """The grids as tensors, one for each cell anchor of each level."""
        columns: list[list[float]] = []
        base = 0
        for number, level in enumerate(self.levels):
            count = len(level.cell_anchors)
            if level.height and level.width:
                shift = level.offset * level.stride
                for a, (cx, cy, w, h) in enumerate(xyxy_to_cxcywh(level.cell_anchors.double()).tolist()):
                    columns.append(
                        [level.stride, level.width, level.height, cx + shift, cy + shift, w, h, base + a, count, number]
                    )
            base += level.height * level.width * count
        table = torch.tensor(columns, dtype=torch.float64).reshape(-1, 10).to(self.device)
        stride, width, height, cx, cy, w, h, first, step, number_of = table.unbind(1)
        return PriorGrids(
            stride=stride,
            columns=width.long(),
            rows=height.long(),
            cx=cx,
            cy=cy,
            w=w,
            h=h,
            base=first.long(),
            step=step.long(),
            pitch=width.long(),
            level=number_of.long(),
            num_priors=base,
        )


class _InsidePriors(GridPriors):
    """Priors of which those that leave the image are neither searched nor trained."""

    def __init__(self, priors: GridPriors, image_size: tuple[int, int], margin: float) -> None:
        super().__init__(list(priors.levels))
        self._all, self._image_size, self._margin = priors, image_size, margin

    @cached_property
    def level_boxes(self) -> list[Tensor]:
        return self._all.level_boxes

    def boxes(self) -> Tensor:
        return self._all.boxes()

    @cached_property
    def _usable(self) -> Tensor:
        (height, width), margin = self._image_size, self._margin
        x1, y1, x2, y2 = self.boxes().unbind(1)
        return (x1 >= -margin) & (y1 >= -margin) & (x2 < width + margin) & (y2 < height + margin)

    def usable(self) -> Tensor:
        return self._usable

    @cached_property
    def prior_grids(self) -> PriorGrids:
        return self._all.prior_grids.inside(*self._image_size, self._margin)
