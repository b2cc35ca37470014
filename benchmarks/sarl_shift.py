#!/usr/bin/env python
"""How far the pooled values of SARL's channel attention move from crops to the whole images that they are parts of.

    DETECTRON2_DATASETS=/data python benchmarks/sarl_shift.py output/quick_table/aerial/sarl_seed0 ... \
        --result results/aerial/sarl_shift.json

Each validation image goes through the trained model whole, and in windows as large as the crops of the training. For
each level, U of FIM is pooled over both; a shift is the difference of the means over images and over windows, in
standard deviations over windows, as a mean of its size over the channels. ``attention`` is the mean size of the change
of a_c, which is in (0, 1), and ``scale`` the mean size of γ, which multiplies all that the relay adds.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import torch
from common import RESULTS, kept_entries, make_parser, write_record
from queries import images_with_boxes, load_run
from torch import Tensor

from d2tiny.data.tools.tiling import tile_starts
from d2tiny.modeling.necks import SARL

Pooled = dict[str, dict[str, list[Tensor]]]


@contextmanager
def recorded_pooled(relay: SARL) -> Iterator[Pooled]:
    """Record the pooled values of each image, (C,), in lists by level and kind."""
    pooled: Pooled = {name: {"mean": [], "max": [], "attention": []} for name in relay.fim}

    def record(name: str, fim: Any, aligned: Tensor) -> None:
        channel, _ = fim.attention(aligned)
        values = {"mean": aligned.mean((2, 3)), "max": aligned.amax((2, 3)), "attention": channel[..., 0, 0]}
        for kind, value in values.items():
            pooled[name][kind].append(value[0].double())

    with ExitStack() as hooks:
        for name, fim in relay.fim.items():
            handle = fim.register_forward_hook(lambda module, _, output, name=name: record(name, module, output[1]))
            hooks.callback(handle.remove)
        yield pooled


def shifts(whole: dict[str, list[Tensor]], cut: dict[str, list[Tensor]]) -> dict[str, float]:
    """Return the shifts of mean and maximum in deviations over windows, and the change of the attention."""
    found = {}
    for kind, windows in cut.items():
        part, image = torch.stack(windows), torch.stack(whole[kind])
        moved = (image.mean(dim=0) - part.mean(dim=0)).abs()
        unit = torch.ones_like(moved) if kind == "attention" else part.std(dim=0)
        # A channel of ReLU that never fires has no deviation, and does not move.
        found[kind] = round(float((moved[unit > 0] / unit[unit > 0]).mean()), 3)
    return found


@torch.no_grad()
def look(cfg: Any, model: Any, side: int) -> dict[str, Any]:
    """Return the shifts of each level between validation images and their windows."""
    [relay] = [module for module in model.modules() if isinstance(module, SARL)]
    results: dict[str, Pooled] = {}
    images = [item["image"] for item, _ in images_with_boxes(cfg.dataloader.test)]
    for name, parts in (("whole", images), ("cut", [part for image in images for part in windows(image, side)])):
        with recorded_pooled(relay) as results[name]:
            for image in parts:
                model.backbone(model.preprocess_image([{"image": image}]).tensor)
    scales = {name: round(float(scale.abs().mean()), 4) for name, scale in relay.scale.items()}
    return {name: shifts(results["whole"][name], results["cut"][name]) | {"scale": scales[name]} for name in relay.fim}


def windows(image: Tensor, side: int) -> list[Tensor]:
    """Cut an image (3, H, W) into windows of one size that cover it."""
    starts = [tile_starts(length, side, 0) for length in image.shape[1:]]
    return [image[:, y : y + side, x : x + side] for y in starts[0] for x in starts[1]]


def main() -> None:
    """Look at the models and write the record."""
    parser = make_parser(__doc__)
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="output folders of trainings")
    parser.add_argument("--side", type=int, default=160, help="of the crops of the training, in px")
    parser.add_argument("--result", type=Path, default=RESULTS / "aerial" / "sarl_shift.json")
    args = parser.parse_args()
    models = kept_entries(args.result, "models")
    for run in args.runs:
        cfg, model = load_run(run)
        models[run.name] = look(cfg, model, args.side)
        print(run.name, json.dumps(models[run.name]), flush=True)
        write_record(args.result, side=args.side, models=models)


if __name__ == "__main__":
    main()
