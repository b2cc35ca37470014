"""Coverage: which objects of a dataset the anchors and the assigner of a config match at all."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from detectron2.modeling.anchor_generator import DefaultAnchorGenerator
from tqdm import tqdm

from d2tiny.config import load_config
from d2tiny.config.shapes import build_node
from d2tiny.modeling.assigners import Assigner
from d2tiny.modeling.priors import GridPriors, grid_from_generator
from d2tiny.utils.errors import ConfigError

__all__ = ["Coverage", "config_coverage"]

Size = tuple[int, int]

_SIZE_DIVISIBILITY = 32  # images are padded to a multiple of this, as FPN requires
# Larger images are assigned in windows, because results for all priors of a scene take gigabytes. Windows start at
# multiples of all strides, so that their priors are some of those of the image.
_WHOLE = 4096 * 4096  # px
_WINDOW = 2048  # px, step of the windows
_MARGIN = 1024  # px around them: priors farther from an object than this do not matter to it


@dataclass(frozen=True)
class Coverage:
    """Number of objects that are assigned a positive anchor.

    Attributes:
        name: name of the config.
        strides: strides of the pyramid levels in px.
        objects: number of objects.
        by_level: number of objects with at least one positive anchor, for each level.
        unserved: (G,) bool in the order of the images, objects without a positive anchor: the RPN never learns them.
    """

    name: str
    strides: tuple[int, ...]
    objects: int
    by_level: tuple[int, ...]
    unserved: np.ndarray


def _anchor_grid(generator: DefaultAnchorGenerator, width: int, height: int) -> GridPriors:
    padded = [math.ceil(side / _SIZE_DIVISIBILITY) * _SIZE_DIVISIBILITY for side in (height, width)]
    maps = [torch.zeros(1, 1, 1, 1).expand(1, 1, *(math.ceil(s / t) for s in padded)) for t in generator.strides]
    return grid_from_generator(generator, maps)


def _has_positive(assigner: Assigner, grid: GridPriors, boxes: np.ndarray) -> np.ndarray:
    """Return (L, G) whether each of (G, 4) XYXY boxes has a positive prior on each of L levels."""
    with torch.no_grad():
        result = assigner(grid, torch.from_numpy(boxes).float())
    matched = result.matched_idxs.where(result.labels == 1, torch.tensor(-1)).numpy()
    level_starts = np.cumsum([0, *(lv.height * lv.width * len(lv.cell_anchors) for lv in grid.levels)])
    has_positive = np.zeros((len(grid.levels), len(boxes)), dtype=bool)
    for level in range(len(grid.levels)):
        level_matches = matched[level_starts[level] : level_starts[level + 1]]
        has_positive[level, level_matches[level_matches >= 0]] = True
    return has_positive


def _in_windows(assigner: Assigner, generator: DefaultAnchorGenerator, boxes: np.ndarray, size: Size) -> np.ndarray:
    """Return what :func:`_has_positive` does, for a large image (width, height): each object in its centre's window."""
    result = np.zeros((len(generator.strides), len(boxes)), dtype=bool)
    homes = ((boxes[:, :2] + boxes[:, 2:]) / 2).clip(0, np.array(size) - 1) // _WINDOW
    for home in np.unique(homes, axis=0):
        low = np.maximum(home * _WINDOW - _MARGIN, 0)
        high = np.minimum((home + 1) * _WINDOW + _MARGIN, size)
        near = np.flatnonzero(((boxes[:, :2] < high) & (boxes[:, 2:] > low)).all(axis=1) | (homes == home).all(axis=1))
        width, height = (high - low).astype(int).tolist()
        found = _has_positive(assigner, _anchor_grid(generator, width, height), boxes[near] - np.tile(low, 2))
        inside = (homes[near] == home).all(axis=1)
        result[:, near[inside]] = found[:, inside]
    return result


def config_coverage(
    config: str,
    boxes: Sequence[np.ndarray],
    sizes: Sequence[tuple[int, int]],
    overrides: Sequence[str] = (),
    *,
    progress: bool = False,
) -> Coverage:
    """Assign the objects of each image to the anchors of a config's RPN, at the original size of the image.

    As in training, anchors outside the image take no part where the config's ``anchor_boundary_thresh`` says so.

    Args:
        config: lazy config file or zoo name of a detector with an RPN.
        boxes: (G, 4) XYXY boxes of each image in px.
        sizes: (width, height) of each image in px.
        overrides: overrides of the config.
        progress: show a progress bar.

    Raises:
        ConfigError: the config has no RPN with an assigner.
    """
    cfg = load_config(config, overrides)
    part = cfg.model.get("proposal_generator")
    if part is None or "assigner" not in part or "anchor_generator" not in part:
        raise ConfigError(
            f"{config} has no model.proposal_generator with anchors and an assigner, so there is no coverage to count."
        )
    generator, assigner = build_node(part.anchor_generator), build_node(part.assigner)
    strides = tuple(int(s) for s in generator.strides)
    margin = float(part.get("anchor_boundary_thresh", -1))
    grids: dict[Size, GridPriors] = {}
    covered: list[np.ndarray] = []
    by_level = np.zeros(len(strides), dtype=np.int64)
    pairs = tqdm(zip(boxes, sizes, strict=True), desc=config, total=len(boxes), disable=not progress, leave=False)
    for objects, size in pairs:
        longest = (objects[:, 2:] - objects[:, :2]).max(initial=0)
        # Where anchors outside the image are removed, windows would have other borders than the image.
        if margin < 0 and size[0] * size[1] > _WHOLE and longest <= _MARGIN / 2:
            has_positive = _in_windows(assigner, generator, objects, size)
        else:
            if size not in grids:
                grids[size] = _anchor_grid(generator, *size).inside(size[::-1], margin)
            has_positive = _has_positive(assigner, grids[size], objects)
        by_level += has_positive.sum(axis=1)
        covered.append(np.asarray(has_positive.any(axis=0)))
    unserved = ~np.concatenate([np.zeros(0, dtype=bool), *covered])
    return Coverage(config, strides, len(unserved), tuple(by_level.tolist()), unserved)
