#!/usr/bin/env python
"""Compare time and memory of COCO evaluators on a random dataset, each in a process of its own.

    pip install pycocotools faster-coco-eval hotcoco ultrafast-pycocotools
    python benchmarks/evaluation.py --images 500 2000 --aitod-reference FOLDER

FOLDER is a checkout of jwwangchn/cocoapi-aitod whose ``aitodpycocotools`` can be imported (it is not on the package
index). Contenders that are not installed are named and left out. All run on one thread with the same two json files and
AI-TOD's areas and limits, and must agree on the result. Results go to ``results/evaluation``.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import io
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from common import RESULTS, ContenderError, in_own_process, make_parser, peak_memory_mb, write_record

AREAS = [[0, 1e10], [0, 64], [64, 256], [256, 1024], [1024, 1e10]]
LABELS = ["all", "verytiny", "tiny", "small", "medium"]
METRICS = ("AP", "AP50", "AP75", "APvt", "APt", "APs", "APm")
CONTENDERS = {
    "d2tiny": "d2tiny.evaluation.engine",
    "ultrafast-pycocotools": "ultrafast_pycocotools",
    "hotcoco": "hotcoco",
    "faster-coco-eval": "faster_coco_eval",
    "pycocotools": "pycocotools.cocoeval",
    "aitodpycocotools": "aitodpycocotools.cocoeval",
}
_SINGLE_THREAD = {f"{name}_NUM_THREADS": "1" for name in ("OMP", "RAYON", "OPENBLAS", "MKL", "NUMBA")}


def write_random_dataset(folder: Path, images: int, seed: int = 0) -> None:
    """Write gt.json and predictions.json: 50 objects and 100 to 1,500 detections in each image, 8 classes.

    A third of the detections lie near an object, most of them of its class, with higher scores; the others are random.
    """
    rng = np.random.default_rng(seed)
    annotations: list[dict[str, Any]] = []
    detections: list[dict[str, Any]] = []
    for image in range(1, images + 1):
        boxes = np.concatenate((rng.uniform(0, 780, (50, 2)), np.exp(rng.normal(np.log(12), 0.5, (50, 2)))), axis=1)
        classes = rng.integers(1, 9, 50)
        crowd = rng.random(50) < 0.02
        for box, category, ignored in zip(boxes, classes, crowd, strict=True):
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": image,
                    "category_id": int(category),
                    "bbox": box.tolist(),
                    "area": float(box[2] * box[3]),
                    "iscrowd": int(ignored),
                }
            )
        number = int(rng.integers(100, 1501))
        near = rng.random(number) < 0.33
        target = rng.integers(0, 50, number)
        drawn = np.where(near[:, None], boxes[target] + rng.normal(0, 1.5, (number, 4)), 0)
        anywhere = np.concatenate((rng.uniform(0, 780, (number, 2)), rng.uniform(3, 30, (number, 2))), axis=1)
        drawn = np.where(near[:, None], drawn, anywhere)
        drawn[:, 2:] = drawn[:, 2:].clip(1)
        labels = np.where(near & (rng.random(number) < 0.9), classes[target], rng.integers(1, 9, number))
        scores = np.where(near, rng.beta(3, 2, number), rng.beta(1, 6, number))
        order = np.argsort(-scores)
        for box, category, score in zip(drawn[order].round(2), labels[order], scores[order], strict=True):
            detections.append(
                {"image_id": image, "category_id": int(category), "bbox": box.tolist(), "score": round(float(score), 6)}
            )
    ground_truth = {
        "images": [{"id": i, "file_name": f"{i}.png", "width": 800, "height": 800} for i in range(1, images + 1)],
        "categories": [{"id": i, "name": f"class {i}"} for i in range(1, 9)],
        "annotations": annotations,
    }
    (folder / "gt.json").write_text(json.dumps(ground_truth))
    (folder / "predictions.json").write_text(json.dumps(detections))


def evaluate_ours(folder: Path) -> tuple[dict[str, float], float]:
    """Evaluate with d2tiny; return metrics and the time at which the files were loaded."""
    from d2tiny.data.coco.arrays import load_ground_truth
    from d2tiny.evaluation import evaluate_arrays, get_protocol, load_detections

    truth = load_ground_truth(folder / "gt.json")
    detections = load_detections(folder / "predictions.json", truth)
    loaded = time.perf_counter()
    metrics = evaluate_arrays(truth, detections, get_protocol("aitod")).metrics()
    return {name: metrics[name] / 100 for name in METRICS}, loaded


def evaluate_peer(name: str, folder: Path) -> tuple[dict[str, float], float]:
    """Evaluate with an implementation of pycocotools' interface; return what :func:`evaluate_ours` does."""
    module = CONTENDERS[name]
    if name in ("pycocotools", "aitodpycocotools"):
        coco = importlib.import_module(f"{module.split('.')[0]}.coco").COCO
        engine = importlib.import_module(module).COCOeval
    else:
        package = importlib.import_module(module)
        coco = package.COCO
        engine = package.COCOeval_faster if name == "faster-coco-eval" else package.COCOeval
    with contextlib.redirect_stdout(io.StringIO()):
        truth = coco(str(folder / "gt.json"))
        detections = truth.loadRes(str(folder / "predictions.json"))
        loaded = time.perf_counter()
        run = engine(truth, detections, "bbox")
        run.params.areaRng, run.params.areaRngLbl, run.params.maxDets = AREAS, LABELS, [1, 100, 1500]
        run.evaluate()
        run.accumulate()
    precision = np.asarray(run.eval["precision"])

    def mean(part: np.ndarray) -> float:
        return float(part[part > -1].mean())

    values = [precision[..., 0, -1], precision[0, ..., 0, -1], precision[5, ..., 0, -1]]
    values += [precision[..., i, -1] for i in range(1, 5)]
    return dict(zip(METRICS, map(mean, values), strict=True)), loaded


def environment(name: str, reference: str) -> dict[str, str]:
    """Return the environment variables of a contender: one thread, and the folder of the reference implementation."""
    variables = dict(_SINGLE_THREAD)
    if name == "aitodpycocotools":
        variables["PYTHONPATH"] = os.pathsep.join(filter(None, (reference, os.environ.get("PYTHONPATH"))))
    return variables


def measure(name: str, folder: Path) -> dict[str, Any]:
    """Measure one contender in this process: wall and CPU seconds, and memory of the imports and at the peak."""
    if name == "aitodpycocotools":
        shim_numpy()
    started = time.perf_counter()
    importlib.import_module(CONTENDERS[name])
    imported, base = time.perf_counter(), peak_memory_mb()
    if name == "d2tiny":  # the very first call compiles for some seconds; later processes load compiled code from disk
        load_compiled_code()
    begin, cpu = time.perf_counter(), time.process_time()
    metrics, loaded = evaluate_ours(folder) if name == "d2tiny" else evaluate_peer(name, folder)
    end = time.perf_counter()
    return {
        "import_s": imported - started,
        "load_s": loaded - begin,
        "evaluate_s": end - loaded,
        "total_s": end - begin,
        "cpu_s": time.process_time() - cpu,
        "imports_mb": base,
        "peak_mb": peak_memory_mb(),
        "metrics": metrics,
    }


def shim_numpy() -> None:
    """Restore names that numpy removed and the reference implementation uses."""
    np.float = float  # type: ignore[attr-defined]
    np.NPY_OWNDATA = 4  # type: ignore[attr-defined]


def load_compiled_code() -> None:
    """Load the compiled functions by evaluating one object and one detection."""
    from d2tiny.evaluation import evaluate_detections

    truth = {
        "images": [{"id": 1}],
        "categories": [{"id": 1, "name": "x"}],
        "annotations": [{"image_id": 1, "category_id": 1, "bbox": [0, 0, 8, 8]}],
    }
    evaluate_detections(truth, [{"image_id": 1, "category_id": 1, "bbox": [0, 0, 8, 8], "score": 1.0}])


def is_available(name: str, reference: str) -> bool:
    """Return whether a contender can be imported."""
    shims = "import numpy; numpy.float = float; numpy.NPY_OWNDATA = 4"
    command = [sys.executable, "-c", f"{shims}; import {CONTENDERS[name]}"]
    variables = {**os.environ, **environment(name, reference)}
    return subprocess.run(command, capture_output=True, env=variables).returncode == 0


def compare(images: int, names: list[str], reference: str) -> list[dict[str, Any]]:
    """Measure all contenders on a dataset with a number of images; stop if their results differ."""
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        print(f"writing a dataset of {images} images ...", flush=True)
        write_random_dataset(Path(folder), images)
        for name in names:
            print(f"{name} ...", flush=True)
            options = ["--one", name, "--data", folder]
            try:
                row = in_own_process(*options, environment=environment(name, reference))
                rows.append({"contender": name, **row})
            except ContenderError as err:
                print(f"  failed: {str(err).strip().splitlines()[-1:]}")
    ours = rows[0]["metrics"]
    for row in rows:
        row["largest_difference"] = max(abs(row["metrics"][m] - ours[m]) for m in METRICS)
        if row["largest_difference"] > 1e-9:
            raise SystemExit(f"{row['contender']} disagrees by {row['largest_difference']}: {row['metrics']}")
    return rows


def table(images: int, rows: list[dict[str, Any]]) -> str:
    """Return the table of one dataset in Markdown."""
    ours = rows[0]
    lines = [
        f"\n{images} images: time from the two files to the numbers, one thread; × = relative to d2tiny\n",
        "| contender | load s | evaluate s | evaluate × | CPU s | CPU × | peak MB | MB without imports | MB × "
        "| largest difference |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        own, base = row["peak_mb"] - row["imports_mb"], ours["peak_mb"] - ours["imports_mb"]
        lines.append(
            f"| {row['contender']} | {row['load_s']:.2f} | {row['evaluate_s']:.2f} | "
            f"{row['evaluate_s'] / ours['evaluate_s']:.1f} | {row['cpu_s']:.2f} | {row['cpu_s'] / ours['cpu_s']:.1f} | "
            f"{row['peak_mb']:.0f} | {own:.0f} | {own / base:.1f} | {row['largest_difference']:.1e} |"
        )
    return "\n".join(lines)


def main() -> None:
    """Measure the contenders that are installed, print tables and write the records."""
    parser = make_parser(__doc__)
    parser.add_argument("--images", type=int, nargs="+", default=[500, 2000])
    parser.add_argument("--contenders", nargs="+", choices=tuple(CONTENDERS), default=list(CONTENDERS))
    parser.add_argument("--aitod-reference", default="", metavar="FOLDER")
    parser.add_argument("--results", type=Path, default=RESULTS / "evaluation")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    parser.add_argument("--data", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        print(json.dumps(measure(args.one, args.data)))
        return
    names = []
    for name in dict.fromkeys(["d2tiny", *args.contenders]):
        if is_available(name, args.aitod_reference):
            names.append(name)
        else:
            print(f"{name}: not installed, left out")
    for images in args.images:
        rows = compare(images, names, args.aitod_reference)
        print(table(images, rows), flush=True)
        write_record(args.results / f"images_{images}.json", images=images, rows=rows)


if __name__ == "__main__":
    main()
