#!/usr/bin/env python
r"""Find what REM adds to a trained detector: evaluate it with parts of its routing replaced or left out.

    python benchmarks/quick_table.py --table scalebridge_aerial --rows dino_lite0_rem     # trains it
    python benchmarks/routing_controls.py output/quick_table/scalebridge_aerial/dino_lite0_rem_seed0

Each argument is the folder of a run, with its config and final weights. If the detector has the same AP without the
mixture, nothing depends on it; if it has the same with an even gate or even experts, nothing depends on where they are
chosen. Beside the AP of each control stands, for each run and level, how large what the mixture adds is: the mean over
the images of its norm as a share of that of the level.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from common import RESULTS, make_parser, write_record
from queries import Evaluators, images_with_boxes, load_run, print_table
from torch import Tensor

from d2tiny.modeling.transformer import REM

METRICS = ("AP", "AP50", "AP75", "APvt", "APt", "APs")
_Mix = Callable[[Tensor, Sequence[Tensor], Tensor, Tensor], tuple[Tensor, Tensor]]


def _even_gate(mix: _Mix, sizes: Sequence[int]) -> _Mix:
    return lambda x, experts, probability, gate: mix(x, experts, probability, torch.full_like(gate, 1 / len(sizes)))


def _even_experts(mix: _Mix, sizes: Sequence[int]) -> _Mix:
    """All experts of a category have the same probability; attention of the heads still chooses among them."""

    def mixed(x: Tensor, experts: Sequence[Tensor], probability: Tensor, gate: Tensor) -> tuple[Tensor, Tensor]:
        parts = [torch.full_like(part, 1 / part.shape[1]) for part in probability.split(list(sizes), dim=1)]
        return mix(x, experts, torch.cat(parts, dim=1), gate)

    return mixed


def _without(category: int, *, redistribute: bool) -> Callable[[_Mix, Sequence[int]], _Mix]:
    """The other categories have all of the mixture, or only the share that the gate gives them."""

    def change(mix: _Mix, _: Sequence[int]) -> _Mix:
        def mixed(x: Tensor, experts: Sequence[Tensor], probability: Tensor, gate: Tensor) -> tuple[Tensor, Tensor]:
            others = gate.clone()
            others[:, category] = 0
            return mix(x, experts, probability, others / others.sum(dim=1, keepdim=True) if redistribute else others)

        return mixed

    return change


def _identity(mix: _Mix, _: Sequence[int]) -> _Mix:
    def mixed(*args: Any) -> tuple[Tensor, Tensor]:
        mixture, share = mix(*args)
        return torch.zeros_like(mixture), share

    return mixed


def controls(rem: REM) -> dict[str, Callable[[_Mix, Sequence[int]], _Mix]]:
    """Return what replaces the mixture of a module, by name of the control."""
    categories = list(enumerate(rem.categories))
    return {
        "as trained": lambda mix, _: mix,
        "without the mixture": _identity,
        "an even gate": _even_gate,
        "even experts": _even_experts,
        **{f"without experts for {name} objects": _without(c, redistribute=True) for c, name in categories},
        **{f"{name} experts silent, others as trained": _without(c, redistribute=False) for c, name in categories},
    }


class ControlledRouting:
    """A trained detector with REM, whose mixture is replaced from outside."""

    def __init__(self, folder: Path) -> None:
        self.cfg, self.model = load_run(folder)
        self.cfg.dataloader.evaluator.output_dir = None
        self.rem: REM = self.model.routing
        self.controls = controls(self.rem)
        self._mix: _Mix = self.rem._mix
        self.shares: list[list[float]] = []

    @torch.no_grad()
    def detect(self, item: dict[str, Any], control: str) -> list[dict[str, Any]]:
        """Return the detections of an image with a control, and remember what the mixture adds as it was trained."""
        change = self.controls[control](self._mix, self.rem.sizes)
        added: list[float] = []

        def mixed(x: Tensor, *args: Any) -> tuple[Tensor, Tensor]:
            mixture, share = change(x, *args)
            added.append(float((self.rem.scale * mixture).norm() / x.norm()))
            return mixture, share

        self.rem._mix = mixed  # type: ignore[method-assign,assignment]
        found: list[dict[str, Any]] = self.model([item])
        if control == "as trained":
            self.shares.append(added)
        return found


def measure(run: ControlledRouting) -> dict[str, dict[str, Any]]:
    """Return the metrics of each control of a run, and of the trained one what the mixture adds to each level."""
    evaluators = Evaluators(run.cfg, run.controls)
    for item, _ in images_with_boxes(run.cfg.dataloader.test):
        evaluators.process(item, partial(run.detect, item))
    rows = evaluators.metrics(METRICS)
    for level, share in enumerate(np.mean(run.shares, axis=0) if run.shares else ()):
        rows["as trained"][f"added, level {level}"] = round(float(share), 4)
    return rows


def main() -> None:
    """Evaluate all runs, print tables and write the record."""
    parser = make_parser(__doc__)
    parser.add_argument("runs", type=Path, nargs="+", help="folders of runs with REM")
    parser.add_argument("--output", default="scalebridge_aerial/routing_controls.json", help="file in results/")
    parser.add_argument("--controls", nargs="+", help="names of controls; default: all")
    args = parser.parse_args()
    torch.set_num_threads(1)
    runs = {folder.name: ControlledRouting(folder) for folder in args.runs}
    for run in runs.values():
        if unknown := sorted(set(args.controls or ()) - set(run.controls)):
            parser.error(f"--controls: {unknown} not in {list(run.controls)}")
        run.controls = {name: run.controls[name] for name in args.controls or run.controls}
    rows = {name: measure(run) for name, run in runs.items()}
    for name, of_run in rows.items():
        print_table(name, of_run)
    write_record(RESULTS / args.output, rows=rows)


if __name__ == "__main__":
    main()
