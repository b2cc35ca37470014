#!/usr/bin/env python
"""Compare the time of exported detectors with eager PyTorch and, where it has the model, stock Detectron2.

    python benchmarks/deploy.py
    python benchmarks/deploy.py --models faster_rfla yolo11_m --threads 1 --size 800

Each model has random weights and looks at one drawn scene; nothing is suppressed, so that the box heads see as many
proposals as the config allows. OpenVINO computes in float32, bfloat16 and int8 (calibrated on drawn scenes), ONNX
Runtime in float32. Contenders run one after the other in processes of their own, round by round; the best call of all
rounds counts, of wall time, or with ``--clock cpu`` of processor time, for machines that others use too. Results go to
``results/deploy``.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from common import RESULTS, in_own_process, make_parser, write_record

MODELS = {
    "faster_rfla": "aitod/faster_rcnn_r50_fpn_rfla_1x",
    "faster_efpnbs": "aitod/faster_rcnn_r50_efpnbs_rfla_dcloss_1x",
    "cascade": "aitod/cascade_rcnn_r50_fpn_rfla_1x",
    "yolo11_m": "aitod/yolo11_m_600e",
    "rs_tinynet_m": "aitod/rs_tinynet_m_600e",
    "dino_4scale": "aitod/dino_r50_4scale_12e",
}
CONTENDERS = ("stock", "eager", "onnxruntime", "openvino", "openvino_bf16", "openvino_int8")
_STOCK = {"faster_rfla"}  # Detectron2 has the same graph, with its own RPN and box head
_CALIBRATION = 6


def export(model: str, folder: Path, args: argparse.Namespace) -> None:
    """Write a model with random weights in all formats."""
    import cv2
    import torch
    from detectron2.config import instantiate

    from d2tiny import model_zoo
    from d2tiny.engine.checkpoint import write_checkpoint
    from d2tiny.export.comparison import drawn_images
    from d2tiny.export.export import ExportSettings, write_model
    from d2tiny.export.recipe import recipe_of
    from d2tiny.inference.torch_detector import TorchDetector

    name = MODELS[model]
    torch.manual_seed(0)
    write_checkpoint(folder / "model.pth", instantiate(model_zoo.get_config(name).model).state_dict())
    scenes = folder / "scenes"
    scenes.mkdir()
    for number, scene in enumerate(drawn_images(((args.size, args.size),) * _CALIBRATION)):
        cv2.imwrite(str(scenes / f"{number}.png"), scene)
    detector = TorchDetector(model_zoo.get_cfg(name, folder / "model.pth", device="cpu"))
    recipe = recipe_of(detector, name)
    for contender, settings in {
        "onnxruntime": ExportSettings(),
        "openvino": ExportSettings(format="openvino"),
        "openvino_bf16": ExportSettings(format="openvino", precision="bf16"),
        "openvino_int8": ExportSettings(format="openvino", precision="int8", calibration=scenes),
    }.items():
        if contender in args.contenders:
            (folder / contender).mkdir()
            write_model(recipe, detector, folder / contender, settings, lambda text: None)


def measure(contender: str, args: argparse.Namespace) -> dict[str, Any]:
    """Return the best seconds of a call of one contender in this process."""
    import cv2
    import numpy as np

    folder = Path(args.folder)
    if contender != "stock":
        from d2tiny.utils.malloc import keep_freed_memory

        keep_freed_memory()  # as d2tiny predict does
    image = cv2.imread(str(folder / "scenes" / "0.png"))
    call = _eager(contender, folder, args) if contender in ("stock", "eager") else _exported(contender, folder, args)
    clock = time.process_time if args.clock == "cpu" else time.perf_counter
    best, found = float("inf"), 0
    for _ in range(args.steps + 1):
        begin = clock()
        found = call(np.ascontiguousarray(image))
        best = min(best, clock() - begin)
    return {"seconds": best, "detections": found}


def _eager(contender: str, folder: Path, args: argparse.Namespace) -> Any:
    import torch
    from contenders import stock
    from detectron2.config import instantiate

    from d2tiny import model_zoo

    torch.set_num_threads(args.one_threads)
    cfg = model_zoo.get_config(MODELS[args.one_model]).model
    model = instantiate(stock(cfg) if contender == "stock" else cfg).eval()
    model.load_state_dict(torch.load(folder / "model.pth", weights_only=False)["model"])

    def call(image: Any) -> int:
        with torch.no_grad():
            return len(model([{"image": torch.from_numpy(image.transpose(2, 0, 1).copy())}])[0]["instances"])

    return call


def _exported(contender: str, folder: Path, args: argparse.Namespace) -> Any:
    from d2tiny.runtime import ExportedModel

    backend = contender.partition("_")[0]
    model = ExportedModel(folder / contender, backend=backend, num_threads=args.one_threads)
    return lambda image: len(model(image[None])[0].scores)


def compare(args: argparse.Namespace) -> None:
    """Measure all contenders, print a table and write the record."""
    rows: dict[str, Any] = {}
    for model in args.models:
        folder = Path(tempfile.mkdtemp(prefix="deploy_"))
        try:
            export(model, folder, args)
            print(f"{model}: exported", file=sys.stderr, flush=True)
            for _ in range(args.rounds):
                for threads in args.threads:
                    for contender in args.contenders:
                        if contender == "stock" and model not in _STOCK:
                            continue
                        row = _in_process(model, contender, threads, folder, args)
                        cells = rows.setdefault(model, {}).setdefault(str(threads), {})
                        known = cells.get(contender, row)
                        cells[contender] = row if row["seconds"] < known["seconds"] else known
        finally:
            shutil.rmtree(folder)
        _print(model, rows[model])
    settings = {key: getattr(args, key) for key in ("size", "steps", "rounds", "clock")}
    write_record(RESULTS / "deploy" / "cpu.json", **settings, rows=rows)


def _in_process(model: str, contender: str, threads: int, folder: Path, args: argparse.Namespace) -> dict[str, Any]:
    options = ["--one", contender, "--one-model", model, "--one-threads", str(threads), "--folder", str(folder)]
    options += ["--steps", str(args.steps), "--clock", args.clock]
    return in_own_process(*options, environment={"OMP_NUM_THREADS": str(threads)})


def _print(model: str, rows: dict[str, Any]) -> None:
    for threads, cells in rows.items():
        first = cells.get("eager", next(iter(cells.values())))["seconds"]
        text = ", ".join(
            f"{name} {cell['seconds']:.2f} s ({first / cell['seconds']:.2f} ×)" for name, cell in cells.items()
        )
        print(f"| {model}, {threads} threads | {text} |", flush=True)


def main() -> None:
    """Run the benchmark, or one contender of it."""
    parser = make_parser(__doc__)
    parser.add_argument("--models", nargs="+", choices=tuple(MODELS), default=list(MODELS))
    parser.add_argument("--contenders", nargs="+", choices=CONTENDERS, default=list(CONTENDERS))
    parser.add_argument("--threads", nargs="+", type=int, default=[1, os.cpu_count() or 1])
    parser.add_argument("--size", type=int, default=800, help="px of a side")
    parser.add_argument("--steps", type=int, default=2, help="calls of which the best counts, after one more")
    parser.add_argument("--rounds", type=int, default=2, help="processes of each contender; the best counts")
    parser.add_argument("--clock", choices=("wall", "cpu"), default="wall")
    for hidden in ("--one", "--one-model", "--folder"):
        parser.add_argument(hidden, help=argparse.SUPPRESS)
    parser.add_argument("--one-threads", type=int, default=1, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        print(json.dumps(measure(args.one, args)))
    else:
        compare(args)


if __name__ == "__main__":
    main()
