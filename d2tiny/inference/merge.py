"""Merge the detections of overlapping tiles into those of the scene, without seams.

A tile is a window. What two tiles see of one object must agree where both look: **two detections are views of one
object if they have the same extent in the intersection of their tiles.** That covers an object that both see whole, one
that an edge cuts in one tile, and one that is larger than the overlap and that both see in part.

1. Views of different tiles are paired by their agreement (IoU of what lies in both tiles, a pixel wider on each side,
   so that a jitter of a pixel does not part views of the tiniest objects), the best pairs first, those of one class
   before others. A group of views has at most one of each tile, so two touching objects, which each tile sees as two,
   stay two.
2. A group becomes one object. Views that no inner edge cuts are trusted whole: their mean, in which one far from the
   edges of its tile, with most context, counts most. If all are cut, each side is taken from those that do not end
   there. Score and class are those of the view with most context.
3. A cut view without a partner is dropped where another tile sees its object better; the same NMS as in the detector
   then removes what is double across tiles.

Rows of tiles are merged as they become complete: in memory are the views near the open seams only. The result does not
depend on the order in which tiles arrive.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from d2tiny.inference.merge_kernels import cut_sides, group_views, hold_open, inside_other, represent
from d2tiny.inference.tiles import TileGrid
from d2tiny.ops.grid_nms import LEAST_THRESHOLD, grid_nms
from d2tiny.utils.errors import ConfigError

__all__ = ["MergeSettings", "SeamMerger", "Views"]

_OVERLAPPING = 0.4  # share of a box in another from which on both are resolved together


@dataclass(frozen=True)
class MergeSettings:
    """Constants of merging.

    Attributes:
        agreement: least IoU of two views of one object in the intersection of their tiles, in (0, 1).
        tolerance: px by which boxes are widened on each side for it.
        edge: a side that ends closer than this to an inner edge of its tile, in px, may be cut.
        edge_share: the same in shares of the box's side; the larger one counts.
        inside: share of a cut view that must lie in a better view of its class for it to be dropped.
        nms: IoU above which the worse of two objects of a class is removed; 1 for detectors without NMS.
    """

    agreement: float = 0.4
    tolerance: float = 1.0
    edge: float = 2.0
    edge_share: float = 0.15
    inside: float = 0.7
    nms: float = 0.5

    def __post_init__(self) -> None:
        shares = 0 < self.agreement < 1 and 0 <= self.edge_share < 1 and 0 < self.inside <= 1
        if not shares or not LEAST_THRESHOLD <= self.nms <= 1 or self.tolerance < 0 or self.edge < 0:
            raise ConfigError(
                f"Merging needs agreement, edge_share and inside in (0, 1), nms in [{LEAST_THRESHOLD}, 1], tolerance "
                f"and edge of at least 0 px, got {self}."
            )


class Views(NamedTuple):
    """Boxes (N, 4) XYXY in px of the scene, scores (N,), classes (N,)."""

    boxes: np.ndarray
    scores: np.ndarray
    classes: np.ndarray

    @classmethod
    def empty(cls) -> Views:
        """Return no views."""
        return cls(np.zeros((0, 4)), np.zeros(0, np.float32), np.zeros(0, np.int64))

    def take(self, index: np.ndarray) -> Views:
        """Return those of an index or a mask."""
        return Views(self.boxes[index], self.scores[index], self.classes[index])

    @classmethod
    def joined(cls, parts: Sequence[Views]) -> Views:
        """Return several as one."""
        return cls(*(np.concatenate(arrays) for arrays in zip(*parts, strict=True)))


class _Open(NamedTuple):
    """Views near seams whose groups are not final.

    Attributes:
        views: what and where.
        tiles: (N,), the tile of each view.
        group: (N,), number of its group.
        following: (N,), the next view of its group, in a circle.
    """

    views: Views
    tiles: np.ndarray
    group: np.ndarray
    following: np.ndarray

    @classmethod
    def empty(cls) -> _Open:
        nothing = np.zeros(0, np.int64)
        return cls(Views.empty(), nothing, nothing, nothing)

    def with_views(self, views: Views, tiles: np.ndarray) -> _Open:
        """Return these and further ones, each in a group of its own."""
        alone = np.arange(len(self.tiles), len(self.tiles) + len(tiles))
        return _Open(
            Views.joined((self.views, views)),
            np.concatenate((self.tiles, tiles)),
            np.concatenate((self.group, alone)),
            np.concatenate((self.following, alone)),
        )

    def only(self, kept: np.ndarray) -> _Open:
        """Return those of a mask, which has whole groups."""
        new = np.cumsum(kept) - 1
        # A group's number is the index of one of its views.
        return _Open(self.views.take(kept), self.tiles[kept], new[self.group[kept]], new[self.following[kept]])


class SeamMerger:
    """Merges the detections of the tiles of one scene, row by row."""

    def __init__(self, grid: TileGrid, settings: MergeSettings | None = None) -> None:
        """Start with nothing.

        Args:
            grid: tiles of the scene.
            settings: constants; by default those of :class:`MergeSettings`.
        """
        self.grid, self.settings = grid, settings or MergeSettings()
        self._waiting: dict[int, dict[int, Views]] = {}
        self._row = 0
        self._open = _Open.empty()

    def add(self, tile: int, boxes: np.ndarray, scores: np.ndarray, classes: np.ndarray) -> Iterator[Views]:
        """Add what was found in a tile; yield what is final since.

        Args:
            tile: its number, row by row; each is given once, in any order.
            boxes: (N, 4) XYXY in px of the tile.
            scores: (N,).
            classes: (N,).

        Raises:
            ValueError: a tile that is none or was given before.
        """
        row, column = divmod(tile, len(self.grid.columns))
        if not 0 <= tile < len(self.grid) or row < self._row or column in self._waiting.get(row, {}):
            raise ValueError(f"tile {tile} of {len(self.grid)} was given before, or is none.")
        x0, y0, x1, y1 = self.grid.window(tile)
        boxes = np.asarray(boxes, np.float64).reshape(-1, 4) + np.array((x0, y0, x0, y0))
        boxes = boxes.clip((x0, y0, x0, y0), (x1, y1, x1, y1))
        views = Views(boxes, np.asarray(scores, np.float32), np.asarray(classes, np.int64))
        self._waiting.setdefault(row, {})[column] = views
        while len(self._waiting.get(self._row, ())) == len(self.grid.columns):
            by_column = self._waiting.pop(self._row)
            yield from self._merge_row([by_column[c] for c in range(len(self.grid.columns))])
            self._row += 1

    @property
    def complete(self) -> bool:
        """Whether all tiles were given."""
        return self._row == len(self.grid.rows)

    def _merge_row(self, found: Sequence[Views]) -> Iterator[Views]:
        """Merge the tiles of the current row with the open views; yield what is final."""
        first = self._row * len(self.grid.columns)
        tiles = np.repeat(np.arange(first, first + len(found)), [len(v.scores) for v in found])
        views = Views.joined(found)
        seam = self._seen_by_others(views.boxes, tiles)
        yield views.take(~seam)
        if not seam.any() and not len(self._open.tiles):
            return  # nothing to merge, nor to compile for it
        before, self._open = len(self._open.tiles), self._open.with_views(views.take(seam), tiles[seam])
        o, s = self._open, self.settings
        group_views(
            o.views.boxes,
            o.views.classes,
            o.tiles,
            self.grid.windows,
            o.group,
            o.following,
            before,
            s.agreement,
            s.tolerance,
        )
        yield self._close()

    def _seen_by_others(self, boxes: np.ndarray, tiles: np.ndarray) -> np.ndarray:
        """Return (N,) whether another tile sees a part of a box."""
        row, column = np.divmod(tiles, len(self.grid.columns))
        result = np.zeros(len(boxes), np.bool_)
        for side, spans, own in ((0, self.grid.columns, column), (1, self.grid.rows, row)):
            starts, ends = np.array(spans, dtype=np.float64).T
            low, high = boxes[:, side] - self.settings.tolerance, boxes[:, side + 2] + self.settings.tolerance
            # The last tile may overlap with more than its neighbour, but then the neighbour does so too.
            result |= (own > 0) & (low < ends[np.maximum(own - 1, 0)])
            result |= (own < len(spans) - 1) & (high > starts[np.minimum(own + 1, len(spans) - 1)])
        return result

    def _close(self) -> Views:
        """Resolve the groups that no later row can meet; return their objects."""
        rows, later = self.grid.rows, self._row + 1
        limit = rows[later][0] - self.settings.tolerance if later < len(rows) else np.inf
        o = self._open
        still = np.zeros(len(o.tiles), np.bool_)
        still[o.group[o.views.boxes[:, 3] > limit]] = True
        still = still[o.group]
        hold_open(o.views.boxes, o.tiles, o.group, o.following, still, _OVERLAPPING)
        objects = self._without_doubles(self._resolved(~still))
        self._open = o.only(still)
        return objects

    def _resolved(self, done: np.ndarray) -> Views:
        """Return one object for each finished group, but for cut views that another tile sees better."""
        (boxes, scores, classes), s, grid = self._open.views, self.settings, self.grid
        tiles = self._open.tiles
        cut, distance = cut_sides(boxes, tiles, grid.windows, grid.width, grid.height, s.edge, s.edge_share)
        found, leader, alone = represent(boxes, scores, tiles, self._open.following, cut, distance, done)
        lonely = np.zeros(len(tiles), np.bool_)
        lonely[leader[alone]] = True
        if lonely.any():
            alone &= inside_other(boxes, classes, tiles, lonely, s.inside)[leader]
        return Views(found, scores[leader], classes[leader]).take(~alone)

    def _without_doubles(self, objects: Views) -> Views:
        """Apply NMS."""
        if self.settings.nms >= 1 or not len(objects.scores):
            return objects
        kept = grid_nms(objects.boxes.astype(np.float32), objects.scores, objects.classes, self.settings.nms)
        return objects.take(np.sort(kept))
