#!/usr/bin/env python
"""Look at trained models on whole tiles, on tiles as large as the crops of the training, and on the training's images.

What is lost on whole tiles alone is lost by context that training never saw; what is lost on validation images alone,
by generalising worse. Compare classes that both sets have: means over others mislead. The losses are means over the
last iterations of the training. Tiles overlap: objects there count twice, those that are cut as what a tile shows of
them. Models that the record has already stay in it.

    DETECTRON2_DATASETS=/data python benchmarks/context.py output/quick_table/aerial/rfla_seed0 ...
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from common import RESULTS, ROOT, kept_entries, make_parser, write_record

DATASET = "aerial"
METRICS = ("AP", "AP50", "AP75", "APvt", "APt", "APs")
LAST = 200  # iterations whose losses are averaged


def variants(data: Path, work: Path, side: int) -> dict[str, Path]:
    """Return folders of datasets in which the validation images are whole, cut, or those of the training."""
    from d2tiny.data.tools.tiling import TileSettings, tile_dataset

    source = data / DATASET
    labels, images = source / "instances_val.json", source / "val"
    tile_dataset(labels, images, work / "cut", TileSettings(side, side // 5), progress=False)
    places = {
        "whole": (labels, images),
        "crops": (work / "cut" / "instances.json", work / "cut" / "images"),
        "training": (source / "instances_train.json", source / "train"),
    }
    for name, (json_file, folder) in places.items():
        target = work / name / DATASET
        target.mkdir(parents=True)
        for link, to in (
            ("instances_val.json", json_file),
            ("val", folder),
            ("instances_train.json", source / "instances_train.json"),
            ("train", source / "train"),
        ):
            (target / link).symlink_to(to.resolve())
    return {name: work / name for name in places}


def evaluate(run: Path, data: Path, output: Path) -> dict[str, float]:
    """Return the metrics of a trained model on the validation images of a folder of datasets."""
    command = [sys.executable, "tools/train_net.py", "--eval-only", "--config-file", str(run / "config.yaml")]
    command += [f"train.init_checkpoint='{run / 'model_final.pth'}'", f"train.output_dir='{output}'"]
    environment = {**os.environ, "DETECTRON2_DATASETS": str(data), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(done.stderr)
    metrics = json.loads((output / "eval.json").read_text())["metrics"]
    # Also by class: the images of the training may have others.
    return {key: value for key, value in metrics.items() if key in METRICS or key.startswith("AP-")}


def last_losses(run: Path) -> dict[str, float]:
    """Return the mean of each loss over the last iterations of a training."""
    lines = [json.loads(line) for line in (run / "metrics.json").read_text().splitlines()]
    lines = [line for line in lines if "total_loss" in line]
    lines = [line for line in lines if line["iteration"] > lines[-1]["iteration"] - LAST]
    names = [name for name in lines[-1] if "loss" in name]
    return {name: round(statistics.mean(line[name] for line in lines), 4) for name in names}


def main() -> None:
    """Evaluate the models and write the record."""
    parser = make_parser(__doc__)
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="output folders of trainings")
    parser.add_argument("--side", type=int, default=160, help="of the crops of the training, in px")
    parser.add_argument("--result", type=Path, default=RESULTS / "aerial" / "context.json")
    args = parser.parse_args()
    data = Path(os.environ.get("DETECTRON2_DATASETS", "datasets"))
    models = kept_entries(args.result, "models")
    with tempfile.TemporaryDirectory() as folder:
        places = variants(data, Path(folder), args.side)
        for run in (path.resolve() for path in args.runs):
            found = {
                name: evaluate(run, place, Path(folder) / "out" / run.name / name) for name, place in places.items()
            }
            models[run.name] = {"losses": last_losses(run), **found}
            print(run.name, models[run.name], flush=True)
            write_record(args.result, side=args.side, dataset=f"{DATASET}_val", models=models)


if __name__ == "__main__":
    main()
