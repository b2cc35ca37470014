#!/usr/bin/env python
"""How large the errors of positives are where a box loss acts, and what slope each loss has there.

    DETECTRON2_DATASETS=/data python benchmarks/box_errors.py output/quick_table/aerial/rfla_seed0 ... \
        --result results/aerial/box_errors.json

An error is that of one coordinate of the encoded deltas, in the RPN and in each stage of the box heads, of centres and
of sizes, over the first batches of the training: at its start (after loading the weights it started from) and at its
end. The mean slope of a loss is what it multiplies a gradient with, compared with L1, whose slope is 1 everywhere.
Runs that the record has already stay in it.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from common import RESULTS, first_batches, kept_entries, make_parser, write_record

if TYPE_CHECKING:
    from torch import Tensor, nn

DELTA, K, BETA = 0.15, 10.0, 1.0  # of DCLoss; of the smooth L1 of Detectron2's cascade
COORDINATES = {"centres": slice(0, 2), "sizes": slice(2, 4)}


def places_of(model: Any) -> dict[str, nn.Module]:
    """Return the parts of a two-stage detector that have a box loss, by name."""
    from torch import nn

    predictor = model.roi_heads.box_predictor
    heads = {"box head": predictor}
    if isinstance(predictor, nn.ModuleList):
        heads = {f"box head, stage {stage}": part for stage, part in enumerate(predictor)}
    return {"RPN": model.proposal_generator, **heads}


def record_errors(part: Any) -> list[Tensor]:
    """Replace the box loss of a part by L1 and return the list that its errors (P, 4) will be appended to."""
    from d2tiny.modeling.losses import BoxLoss

    errors: list[Tensor] = []

    class Recorder(BoxLoss):
        def _elementwise(self, pred: Tensor, target: Tensor, groups: Tensor | None) -> Tensor:
            errors.append((pred - target).abs().detach())
            return (pred - target).abs()

    part.box_loss = Recorder()
    return errors


def summary(errors: Tensor) -> dict[str, dict[str, float]]:
    """Return quantiles, the share under δ and the mean slopes of losses for centres and sizes of errors (P, 4)."""
    import torch

    from d2tiny.modeling.losses.dcloss import dc_loss_slope

    found = {}
    for name, columns in COORDINATES.items():
        part = errors[:, columns].double().flatten()
        quantiles = torch.quantile(part, torch.tensor([0.1, 0.5, 0.9], dtype=part.dtype)).tolist()
        slopes = {
            "DCLoss, prose": dc_loss_slope(part, k=K, delta=DELTA, mode="prose"),
            "DCLoss, formula": dc_loss_slope(part, k=K, delta=DELTA, mode="formula"),
            "DCLoss, prose, unit 10": dc_loss_slope(part / 10, k=K, delta=DELTA, mode="prose"),
            "smooth L1, β = 1": (part / BETA).clamp(max=1),
        }
        found[name] = {
            "positives": len(errors),
            **{f"{share} %": round(value, 3) for share, value in zip((10, 50, 90), quantiles, strict=True)},
            "share under δ": round(float((part < DELTA).double().mean()), 3),
            **{f"slope of {loss}": round(float(slope.mean()), 3) for loss, slope in slopes.items()},
        }
    return found


def measure(run: Path, batches: int, trained: bool) -> dict[str, dict[str, dict[str, float]]]:
    """Return the summary of each place of a run, before or after its training."""
    import torch
    from detectron2.config import instantiate

    from d2tiny.config import load_config
    from d2tiny.engine.checkpoint import TinyCheckpointer

    cfg = load_config(str(run / "config.yaml"))
    torch.manual_seed(0)
    model = instantiate(cfg.model).train()
    weights = str(run / "model_final.pth") if trained else cfg.train.init_checkpoint
    TinyCheckpointer(model).load(weights, checkpointables=[])
    errors = {name: record_errors(part) for name, part in places_of(model).items()}
    with torch.no_grad():
        for batch in first_batches(cfg, batches):
            model(batch)
    return {name: summary(torch.cat(part)) for name, part in errors.items()}


def main() -> None:
    """Measure the runs and write the record."""
    parser = make_parser(__doc__)
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="output folders of trainings")
    parser.add_argument("--batches", type=int, default=10)
    parser.add_argument("--result", type=Path, default=RESULTS / "aerial" / "box_errors.json")
    args = parser.parse_args()
    runs = kept_entries(args.result, "runs")
    for run in args.runs:
        runs[run.name] = {
            when: measure(run, args.batches, trained) for when, trained in (("start", False), ("end", True))
        }
        print(run.name, json.dumps(runs[run.name], indent=1, ensure_ascii=False), flush=True)
        write_record(args.result, delta=DELTA, k=K, batches=args.batches, runs=runs)


if __name__ == "__main__":
    main()
