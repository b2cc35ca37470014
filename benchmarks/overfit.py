#!/usr/bin/env python
"""Overfit detectors on eight synthetic scenes, and report after how many steps they find the objects.

    python benchmarks/overfit.py
    python benchmarks/overfit.py --family transformers --steps 600

This shows that assignment, losses and decoding are consistent. There is no augmentation; the AP (AI-TOD protocol) is
that of the averaged weights on the training scenes, evaluated periodically. Results go to
``results/overfit``, a file for each family.
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

from common import RESULTS, make_parser, write_record

from d2tiny.config import load_config
from d2tiny.data.datasets import register_coco_like
from d2tiny.engine.run import run
from d2tiny.synthetic import write_dataset

FAMILIES = {
    "onestage": (
        "quick/yolox_s",
        "quick/yolox_s_sarl_sal",
        "quick/yolov5_s",
        "quick/yolov5_s_sarl_sal",
        "quick/yolo11_n",
        "quick/yolo11_n_tinytal",
        "quick/rs_tinynet_n",
    ),
    "transformers": ("quick/dino_r18", "quick/dino_r18_dgq", "quick/dino_r18_rem", "quick/scalebridge_r18"),
}
TARGET_AP = 60.0


def overfit(config: str, data: str, folder: Path, steps: int, every: int) -> dict[str, object]:
    """Train a config; return the AP after each period and the first step at which it reaches the target."""
    overrides = [
        f"dataloader.train.dataset.names={data}",
        f"dataloader.test.dataset.names={data}",
        "dataloader.train.mapper.augmentations=[]",
        "dataloader.train.total_batch_size=4",
        f"train.output_dir='{folder}'",
        f"train.max_iter={steps}",
        f"train.eval_period={every}",
        "train.ema.decay=0.97",
        "train.num_threads=1",
        "train.device=cpu",
        "lr_multiplier.warmup_iters=30",
    ]
    run(load_config(config, overrides))
    curve = {}
    for line in (folder / "metrics.json").read_text().splitlines():
        row = json.loads(line)
        if "eval/AP" in row:
            curve[row["iteration"] + 1] = round(row["eval/AP"], 1)
    reached_at = next((step for step, ap in curve.items() if ap >= TARGET_AP), None)
    return {"reached_at": reached_at, "AP": curve}


def main() -> None:
    """Train each config, print a table, write the record."""
    parser = make_parser(__doc__)
    parser.add_argument("--family", choices=tuple(FAMILIES), default="onestage")
    parser.add_argument("--configs", nargs="+", help="default: those of the family")
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--every", type=int, default=50, help="steps between evaluations")
    args = parser.parse_args()
    rows = {}
    with tempfile.TemporaryDirectory() as folder:
        files = write_dataset(Path(folder) / "data", train=8, val=1, height=128, width=128, seed=3)
        register_coco_like("overfit", files["train_json"], files["train_images"])
        for config in args.configs or FAMILIES[args.family]:
            rows[config] = overfit(config, "overfit", Path(folder) / config.replace("/", "_"), args.steps, args.every)
    print(f"| config | AP {TARGET_AP:.0f} at step | last AP |\n|---|---|---|")
    for config, row in rows.items():
        curve = row["AP"]
        assert isinstance(curve, dict)
        print(f"| {config} | {row['reached_at']} | {list(curve.values())[-1]} |")
    write_record(RESULTS / "overfit" / f"{args.family}.json", steps=args.steps, rows=rows)


if __name__ == "__main__":
    main()
