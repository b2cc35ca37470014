"""Which objects of a dataset a config's anchors and assigner can serve at all."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from detectron2.config import instantiate
from detectron2.modeling.anchor_generator import DefaultAnchorGenerator
from tqdm import tqdm

from d2tiny.config import load_config
from d2tiny.modeling.priors import GridPriors, grid_from_generator
from d2tiny.utils.errors import ConfigError

__all__ = ["Coverage", "config_coverage"]

_DIVISIBILITY = 32  # images are padded to a multiple of it, as FPN needs


@dataclass(frozen=True)
class Coverage:
    """How many objects have a positive prior.

    Attributes:
        name: of the config.
        strides: of the pyramid levels in px.
        objects: all of them.
        by_level: objects with at least one positive on each level.
        unserved: (G,) bool, image by image, objects without any positive: the proposal network never learns them.
    """

    name: str
    strides: tuple[int, ...]
    objects: int
    by_level: tuple[int, ...]
    unserved: np.ndarray


def _grid(generator: DefaultAnchorGenerator, width: int, height: int) -> GridPriors:
    padded = [math.ceil(side / _DIVISIBILITY) * _DIVISIBILITY for side in (height, width)]
    maps = [torch.zeros(1, 1, 1, 1).expand(1, 1, *(math.ceil(s / t) for s in padded)) for t in generator.strides]
    return grid_from_generator(generator, maps)


def config_coverage(
    config: str,
    boxes: Sequence[np.ndarray],
    sizes: Sequence[tuple[int, int]],
    overrides: Sequence[str] = (),
    *,
    progress: bool = False,
) -> Coverage:
    """Assign the objects of every image to the anchors of a config's RPN, at the image's native size.

    Args:
        config: lazy config or zoo name of a detector with an RPN.
        boxes: (G, 4) XYXY boxes of each image in px.
        sizes: (width, height) of each image.
        overrides: config overrides.
        progress: show a bar.

    Raises:
        ConfigError: the config has no RPN with an assigner.
    """
    cfg = load_config(config, overrides)
    part = cfg.model.get("proposal_generator")
    if part is None or "assigner" not in part or "anchor_generator" not in part:
        raise ConfigError(
            f"{config} has no model.proposal_generator with anchors and an assigner, so there is no coverage to count."
        )
    generator, assigner = instantiate(part.anchor_generator), instantiate(part.assigner)
    strides = tuple(int(s) for s in generator.strides)
    grids: dict[tuple[int, int], GridPriors] = {}
    served: list[np.ndarray] = []
    by_level = np.zeros(len(strides), dtype=np.int64)
    pairs = tqdm(zip(boxes, sizes, strict=True), desc=config, total=len(boxes), disable=not progress, leave=False)
    for objects, size in pairs:
        if size not in grids:
            grids[size] = _grid(generator, *size)
        grid = grids[size]
        with torch.no_grad():
            result = assigner(grid, torch.from_numpy(objects).float())
        matched = result.matched_idxs.where(result.labels == 1, torch.tensor(-1)).numpy()
        counts = np.cumsum([0, *(lv.height * lv.width * len(lv.cell_anchors) for lv in grid.levels)])
        here = np.zeros((len(strides), len(objects)), dtype=bool)
        for level in range(len(strides)):
            found = matched[counts[level] : counts[level + 1]]
            here[level, found[found >= 0]] = True
        by_level += here.sum(axis=1)
        served.append(np.asarray(here.any(axis=0)))
    unserved = ~np.concatenate([np.zeros(0, dtype=bool), *served])
    return Coverage(config, strides, len(unserved), tuple(by_level.tolist()), unserved)
