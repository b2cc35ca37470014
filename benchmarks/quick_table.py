#!/usr/bin/env python
"""Train the quick configs under one budget and write the table of ``results/quick``.

Each run is one process on one thread, so that runs side by side do not disturb each other; finished runs are
skipped and broken ones resumed, so the command may be stopped and given again.

    DETECTRON2_DATASETS=/data python benchmarks/quick_table.py --seeds 0 1 --jobs 2 train.amp.enabled=true
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
CONFIGS = {
    "faster_rcnn_r18_fpn_maxiou": "MaxIoU, anchors 32-512 px (8 × stride)",
    "faster_rcnn_r18_fpn_maxiou_a8": "MaxIoU, anchors 8-128 px",
    "faster_rcnn_r18_fpn_rfla": "RFLA",
    "faster_rcnn_r18_efpnbs_rfla_dcloss": "E-FPN-BS + RFLA + DCLoss",
}
METRICS = ("AP", "AP50", "AP75", "APvt", "APt", "APs", "APm")


def train(config: str, seed: int, work: Path, results: Path, overrides: list[str]) -> str:
    """Run one training unless its result exists; returns a line for the terminal."""
    target = results / f"{config}_seed{seed}.json"
    if target.exists():
        return f"{target.name}: done before"
    output = work / f"{config}_seed{seed}"
    output.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "tools/train_net.py", "--config-file", f"configs/quick/{config}.py", "--resume"]
    command += [f"train.output_dir='{output}'", f"train.seed={seed}", *overrides]
    with (output / "terminal.txt").open("w") as log:
        code = subprocess.run(
            command, cwd=ROOT, stdout=log, stderr=subprocess.STDOUT, env={**os.environ, "OMP_NUM_THREADS": "1"}
        ).returncode
    if code:
        return f"{target.name}: FAILED, see {output}/terminal.txt"
    record = json.loads((output / "result.json").read_text())
    # The record names the command as a reader would give it, not the folders of this machine.
    record["overrides"] = [f"train.seed={seed}", *overrides]
    record["command"] = (
        f"python tools/train_net.py --config-file configs/quick/{config}.py train.seed={seed} " + " ".join(overrides)
    )
    target.write_text(json.dumps(record, indent=1) + "\n")
    return f"{target.name}: AP {record['metrics']['AP']}"


def table(results: Path) -> str:
    """Mean and half range over the seeds, one row a config."""
    lines = ["| config | runs | " + " | ".join(METRICS) + " |", "|---|" + "---|" * (len(METRICS) + 1)]
    for config, title in CONFIGS.items():
        records = [json.loads(f.read_text()) for f in sorted(results.glob(f"{config}_seed*.json"))]
        if not records:
            lines.append(f"| {title} | 0 |" + " not run |" * len(METRICS))
            continue
        cells = []
        for metric in METRICS:
            values = [r["metrics"][metric] for r in records]
            cells.append(f"{statistics.mean(values):.1f} ± {(max(values) - min(values)) / 2:.1f}")
        lines.append(f"| {title} | {len(records)} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--configs", nargs="+", default=list(CONFIGS), choices=list(CONFIGS))
    parser.add_argument("--jobs", type=int, default=2, help="trainings side by side")
    parser.add_argument("--work", type=Path, default=ROOT / "output" / "quick_table")
    parser.add_argument("--results", type=Path, default=ROOT / "results" / "quick")
    parser.add_argument("--table-only", action="store_true", help="train nothing")
    args, overrides = parser.parse_known_args()
    args.results.mkdir(parents=True, exist_ok=True)
    if not args.table_only:
        with ThreadPoolExecutor(args.jobs) as pool:
            jobs = [
                pool.submit(train, config, seed, args.work, args.results, overrides)
                for seed in args.seeds
                for config in args.configs
            ]
            for job in jobs:
                print(job.result(), flush=True)
    text = table(args.results)
    (args.results / "table.md").write_text(text + "\n")
    print(text)


if __name__ == "__main__":
    main()
