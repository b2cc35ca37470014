#!/usr/bin/env python
r"""Find what a sparse encoder loses: evaluate a trained one with other tokens than those that its density chooses.

    python benchmarks/quick_table.py --table scalebridge_aerial --rows dino_lite0 more_sparse     # trains it
    python benchmarks/sparse_controls.py output/quick_table/scalebridge_aerial/more_sparse_seed0

Each argument is the folder of a run, with its config and final weights. The tokens that the encoder updates and those
from which queries may start are set apart: those that the density chooses, these and the ones at true objects, more by
lower thresholds, or all. If the tokens of true objects gain, the density misses objects. If all tokens lose, the model
holds for few only. Beside the AP stand the share of the tokens that are updated, and that of the objects at whose
centre a query may start from a token of a sparse level.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from common import RESULTS, make_parser, write_record
from detectron2.structures import Boxes, BoxMode, Instances
from queries import Evaluators, by_size, images_with_boxes, load_run, print_table

from d2tiny.modeling.transformer import Tokens

LOWER = (0.3, 0.1, 0.03, 0.01)  # of the threshold
CONTROLS = {
    "as trained": ("chosen", "chosen"),
    "tokens at objects, too": ("with objects", "with objects"),
    **{f"threshold × {factor}": (f"× {factor}",) * 2 for factor in LOWER},
    "all tokens": ("all", "all"),
    "all updated, queries from the chosen": ("all", "chosen"),
    "the chosen updated, queries from all": ("chosen", "all"),
}
METRICS = ("AP", "AP50", "APvt", "APt", "APs")


class ControlledModel:
    """A trained DINO with a sparse encoder, whose updated tokens and candidates for queries are set from outside."""

    def __init__(self, folder: Path) -> None:
        self.cfg, self.model = load_run(folder)
        self.cfg.dataloader.evaluator.output_dir = None
        sparsity = self.model.encoder.sparsity
        sparsity.decoys = 0  # truth adds its own tokens only
        self.encode, self.select, self.targets, self.masks = "chosen", "chosen", None, {}
        self._choose, self._forward = sparsity.choose, self.model.encoder.forward
        self._propose = self.model.selection.propose
        sparsity.choose = self._choose_all_kinds
        self.model.encoder.forward = lambda tokens, _: self._forward(tokens, self.masks[self.encode])
        self.model.selection.propose = lambda memory, tokens, _: self._propose(memory, tokens, self.masks[self.select])

    def _choose_all_kinds(self, density: torch.Tensor, tokens: Tokens, _: Any) -> torch.Tensor:
        truth = [target.density for target in self.model.density.targets(tokens, self.targets)]
        self.masks = {
            "chosen": self._choose(density, tokens),
            "with objects": self._choose(density, tokens, truth),
            **{f"× {factor}": self._choose(density / factor, tokens) for factor in LOWER},
            "all": ~tokens.key_padding_mask,
        }
        self.tokens = tokens
        return self.masks["chosen"]

    @torch.no_grad()
    def detect(self, item: dict[str, Any], control: str, objects: Instances) -> list[dict[str, Any]]:
        """Return the detections of an image with the tokens of a control."""
        self.encode, self.select = CONTROLS[control]
        self.targets = self.model._targets([objects])
        found: list[dict[str, Any]] = self.model([item])
        return found

    def updated_at(self, centers: np.ndarray, mask: str) -> np.ndarray:
        """Return which centres (G, 2), in px, lie in a cell of a sparse level that a mask has."""
        maps = self.tokens.maps(self.masks[mask][..., None])[: self.model.encoder.sparsity.dense_from]
        hit = np.zeros(len(centers), dtype=bool)
        for level in maps:
            stride = 4 * round(maps[0].shape[-1] / level.shape[-1])  # the finest level of all our configs has 4
            cells = (centers // stride).astype(int)
            hit |= level[0, 0].numpy()[cells[:, 1].clip(0, level.shape[2] - 1), cells[:, 0].clip(0, level.shape[3] - 1)]
        return hit


def measure(run: ControlledModel) -> dict[str, dict[str, float | None]]:
    """Return the metrics of each control of a run, its tokens, and the objects that they reach."""
    evaluators = Evaluators(run.cfg, CONTROLS)
    sides: list[np.ndarray] = []
    hits: list[dict[str, np.ndarray]] = []
    shares: list[dict[str, float]] = []
    for item, boxes in images_with_boxes(run.cfg.dataloader.test):
        gt_boxes = Boxes(BoxMode.convert(boxes, BoxMode.XYWH_ABS, BoxMode.XYXY_ABS))
        gt_classes = torch.zeros(len(boxes), dtype=torch.int64)
        objects = Instances(tuple(item["image"].shape[1:]), gt_boxes=gt_boxes, gt_classes=gt_classes)
        evaluators.process(item, partial(run.detect, item, objects=objects))
        sides.append(np.sqrt(boxes[:, 2] * boxes[:, 3]))
        hits.append({mask: run.updated_at(boxes[:, :2] + boxes[:, 2:] / 2, mask) for mask in run.masks})
        shares.append({name: float(mask.float().mean()) for name, mask in run.masks.items()})
    rows = evaluators.metrics(METRICS)
    for control, (encode, select) in CONTROLS.items():
        rows[control]["tokens"] = round(float(np.mean([share[encode] for share in shares])), 3)
        hit = np.concatenate([of_image[select] for of_image in hits])
        rows[control] |= by_size("reached", np.concatenate(sides), hit)
    return rows


def main() -> None:
    """Evaluate all runs, print tables and write the record."""
    parser = make_parser(__doc__)
    parser.add_argument("runs", type=Path, nargs="+", help="folders of runs with a sparse encoder")
    parser.add_argument("--output", default="scalebridge_aerial/sparse_controls.json", help="file in results/")
    args = parser.parse_args()
    torch.set_num_threads(1)
    runs = {folder.name: ControlledModel(folder) for folder in args.runs}
    thresholds = {name: run.model.encoder.sparsity.threshold for name, run in runs.items()}
    rows = {name: measure(run) for name, run in runs.items()}
    for name, controls in rows.items():
        print_table(name, controls)
    write_record(RESULTS / args.output, thresholds=thresholds, rows=rows)


if __name__ == "__main__":
    main()
