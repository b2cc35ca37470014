#!/usr/bin/env python
"""How far the pooled values of SARL's channel attention move from crops to the whole images that they are parts of.

    DETECTRON2_DATASETS=/data python benchmarks/sarl_shift.py output/quick_table/aerial/sarl_seed0 ... \
        --result results/aerial/sarl_shift.json

Each validation image goes through the trained model whole, and in windows as large as the crops of the training. For
each level, U of FIM is pooled over both, without padding; a shift is the difference of an image's value and the mean of
its windows', as a mean over the images, in standard deviations over all windows, and of that the mean size over the
channels. ``attention`` is the mean size of the change of a_c, which is in (0, 1), and ``scale`` the mean size of γ,
which multiplies all that the relay adds.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch
from common import RESULTS, kept_entries, make_parser, write_record
from queries import images_with_boxes, load_run
from torch import Tensor

from d2tiny.data.tools.tiling import tile_starts
from d2tiny.layers.padding import masked_max, masked_mean
from d2tiny.modeling.necks import SARL

Pooled = dict[str, dict[str, list[Tensor]]]


@contextmanager
def recorded_pooled(relay: SARL) -> Iterator[Pooled]:
    """Record what the channel attention of each level pools and gives, a (C,) for each image, by level and kind."""
    pooled: Pooled = {name: {"mean": [], "max": [], "attention": []} for name in relay.fim}

    def record(name: str, attend: Any, aligned: Tensor, padding: Tensor | None = None) -> Any:
        found = attend(aligned, padding)
        values = {"mean": masked_mean(aligned, padding), "max": masked_max(aligned, padding), "attention": found[0]}
        for kind, value in values.items():
            pooled[name][kind].append(value[0, :, 0, 0].double())
        return found

    for name, fim in relay.fim.items():
        fim.attention = partial(record, name, fim.attention)
    try:
        yield pooled
    finally:
        for fim in relay.fim.values():
            del fim.attention


def shifts(whole: dict[str, list[Tensor]], cut: dict[str, list[Tensor]], counts: Sequence[int]) -> dict[str, float]:
    """Return the shifts of mean and maximum in deviations over windows, and the change of the attention.

    Args:
        whole: (C,) of each image, by kind.
        cut: (C,) of each window, by kind, in the order of the images.
        counts: number of windows of each image.
    """
    found = {}
    for kind, values in cut.items():
        part = torch.stack(values)
        of_image = torch.stack([group.mean(dim=0) for group in part.split(list(counts))])
        moved = (torch.stack(whole[kind]) - of_image).mean(dim=0).abs()
        unit = torch.ones_like(moved) if kind == "attention" else part.std(dim=0)
        # A channel of ReLU that never fires has no deviation, and does not move.
        found[kind] = round(float((moved[unit > 0] / unit[unit > 0]).mean()), 3)
    return found


@torch.no_grad()
def look(model: Any, images: Sequence[Tensor], side: int) -> dict[str, Any]:
    """Return the shifts of each level between images (3, H, W) and their windows."""
    [relay] = [module for module in model.modules() if isinstance(module, SARL)]
    parts = [windows(image, side) for image in images]
    results: dict[str, Pooled] = {}
    for name, batch in (("whole", images), ("cut", [window for part in parts for window in part])):
        with recorded_pooled(relay) as results[name]:
            for image in batch:
                model.backbone(model.preprocess_image([{"image": image}]).tensor)
    counts = [len(part) for part in parts]
    return {
        name: shifts(results["whole"][name], results["cut"][name], counts)
        | {"scale": round(float(relay.scale[name].abs().mean()), 4)}
        for name in relay.fim
    }


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
        images = [item["image"] for item, _ in images_with_boxes(cfg.dataloader.test)]
        models[run.name] = look(model, images, args.side)
        print(run.name, json.dumps(models[run.name]), flush=True)
        write_record(args.result, side=args.side, models=models)


if __name__ == "__main__":
    main()
