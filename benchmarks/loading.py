#!/usr/bin/env python
"""Images a second on one core: Detectron2's DatasetMapper against d2tiny's, each in a process of its own.

    python benchmarks/loading.py
    python benchmarks/loading.py --json train.json --images train/      # your own tiles, as they are

Drawn scenes of 800 × 800 px with 50 boxes each, as PNG and as JPEG (quality 95), horizontal flips. Every contender must
give the same pixels, boxes and classes. Memory that is handed back to the system and asked for again costs page faults,
which differ from machine to machine and slow Detectron2 more; the second table keeps memory (MALLOC_* variables), which
is the conservative ratio. Results go to ``results/loading``.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import cv2
import numpy as np

ROOT = Path(__file__).resolve().parents[1]
CONTENDERS = {
    "Detectron2 DatasetMapper": "detectron2",
    "TinyDatasetMapper (OpenCV)": "opencv",
    "TinyDatasetMapper (with kornia-rs)": "kornia",
    "TinyDatasetMapper, decoded cache": "cache",
}
MEMORY = {"MALLOC_MMAP_THRESHOLD_": str(1 << 30), "MALLOC_TRIM_THRESHOLD_": str(1 << 32)}
_HELD = 16  # outputs that stay alive, as in a loader's queue


def draw(folder: Path, number: int) -> None:
    """Write png.json, jpg.json and their images."""
    from d2tiny.synthetic import render_scene

    rng = np.random.default_rng(0)
    for suffix in ("png", "jpg"):
        (folder / suffix).mkdir()
    annotations = []
    for i in range(number):
        scene = render_scene(i, height=800, width=800)
        for suffix, options in (("png", []), ("jpg", [cv2.IMWRITE_JPEG_QUALITY, 95])):
            cv2.imwrite(str(folder / suffix / f"{i}.{suffix}"), scene.image[:, :, ::-1], options)
        boxes = np.concatenate((rng.uniform(0, 770, (50, 2)), rng.uniform(3, 30, (50, 2))), axis=1)
        annotations += [
            {"id": len(annotations) + j, "image_id": i, "category_id": int(rng.integers(1, 9)), "bbox": box.tolist()}
            for j, box in enumerate(boxes)
        ]
    for suffix in ("png", "jpg"):
        images = [{"id": i, "file_name": f"{i}.{suffix}", "width": 800, "height": 800} for i in range(number)]
        categories = [{"id": i, "name": str(i)} for i in range(1, 9)]
        data = {"images": images, "categories": categories, "annotations": annotations}
        (folder / f"{suffix}.json").write_text(json.dumps(data))


def contend(kind: str, json_file: Path, images: Path, cache: Path, repeats: int) -> dict[str, Any]:
    """Milliseconds an image of one mapper, the best of some passes over all images, and a digest of what it gives."""
    import torch
    from detectron2.data import DatasetMapper
    from detectron2.data import transforms as T

    from d2tiny.data.coco.source import DatasetSource
    from d2tiny.data.datasets import load_coco_like
    from d2tiny.data.loading import images as reading
    from d2tiny.data.loading.mapper import TinyDatasetMapper

    cv2.setNumThreads(0)
    torch.set_num_threads(1)
    records = load_coco_like(DatasetSource("benchmark", (str(json_file),), (str(images),)))
    for record in records:  # Detectron2's mapper drops them, ours hands them on
        record["annotations"] = [a for a in record["annotations"] if not a["iscrowd"]]
    flip = [T.RandomFlip(prob=0.5, horizontal=True)]
    if kind == "detectron2":
        mapper: Any = DatasetMapper(is_train=True, augmentations=flip, image_format="RGB")
    else:
        mapper = TinyDatasetMapper(
            is_train=True, augmentations=flip, min_gt_size=0.0, cache_dir=str(cache) if kind == "cache" else None
        )
    if kind != "kornia":
        reading._png_decoder = lambda: None  # type: ignore[assignment]
    elif reading._png_decoder() is None:
        raise SystemExit("kornia-rs is not installed")
    np.random.seed(0)
    digest = 0.0
    for record in records:  # also warms caches
        result = mapper(record)
        boxes = result["instances"].gt_boxes.tensor.double()
        digest += float(boxes.sum()) + float(result["image"][:, ::7, ::5].double().sum())
        digest += float(result["instances"].gt_classes.sum())
    best = float("inf")
    for _ in range(repeats):
        held: list[Any] = []
        start = time.perf_counter()
        for record in records:
            held = [*held[1 - _HELD :], mapper(record)]
        best = min(best, (time.perf_counter() - start) / len(records))
    return {"ms": best * 1e3, "images_per_s": 1 / best, "digest": digest}


def measure(folder: Path, json_file: Path, images: Path, repeats: int, environment: dict[str, str]) -> list[dict]:
    rows = []
    for name, kind in CONTENDERS.items():
        command = [sys.executable, __file__, "--contender", kind, "--json", str(json_file), "--images", str(images)]
        command += ["--cache", str(folder / f"cache_{json_file.stem}"), "--repeats", str(repeats)]
        result = subprocess.run(
            command,
            capture_output=True,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
            check=False,
        )
        if result.returncode and kind == "detectron2":
            raise SystemExit(result.stderr)
        if result.returncode:
            print(f"{name}: left out ({result.stderr.strip().splitlines()[-1]})")
            continue
        rows.append({"contender": name, **json.loads(result.stdout.splitlines()[-1])})
    for row in rows:
        row["ratio"] = rows[0]["ms"] / row["ms"]
        row["same"] = abs(row["digest"] - rows[0]["digest"]) < 1e-3
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, metavar="JSON", help="own data instead of drawn scenes")
    parser.add_argument("--images", type=Path, metavar="DIR")
    parser.add_argument("--number", type=int, default=40, help="of drawn scenes")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--results", type=Path, default=ROOT / "results" / "loading")
    parser.add_argument("--contender", help=argparse.SUPPRESS)
    parser.add_argument("--cache", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.contender:
        print(json.dumps(contend(args.contender, args.json, args.images, args.cache, args.repeats)))
        return
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        if args.json:
            sets = {args.json.stem: (args.json, args.images)}
        else:
            draw(folder, args.number)
            sets = {
                "PNG 800²": (folder / "png.json", folder / "png"),
                "JPEG 800²": (folder / "jpg.json", folder / "jpg"),
            }
        tables = {}
        for name, (json_file, images) in sets.items():
            for memory, environment in (("system's malloc", {}), ("memory kept", MEMORY)):
                rows = measure(folder, json_file, images, args.repeats, environment)
                tables[f"{name}, {memory}"] = rows
                print(f"\n{name}, one core, {memory}\n\n| mapper | images/s | ms/image | × Detectron2 | same output |")
                print("|---|---|---|---|---|")
                for row in rows:
                    print(
                        f"| {row['contender']} | {row['images_per_s']:.0f} | {row['ms']:.2f} | {row['ratio']:.2f} | "
                        f"{'yes' if row['same'] else 'NO'} |",
                        flush=True,
                    )
    from d2tiny.utils.env import describe_hardware

    args.results.mkdir(parents=True, exist_ok=True)
    name = args.json.stem if args.json else "scenes_800"
    record = {"hardware": describe_hardware(), "tables": tables}
    (args.results / f"{name}.json").write_text(json.dumps(record, indent=1, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
