#!/usr/bin/env python
"""Compare Detectron2's DatasetMapper and d2tiny's in images per second on one core, each in a process of its own.

    python benchmarks/loading.py
    python benchmarks/loading.py --json train.json --images train/      # your own images

Synthetic scenes of 800 × 800 px with 50 boxes each, as PNG and as JPEG (quality 95), horizontal flips. Every contender
must give the same pixels, boxes and classes. Returning memory to the system and requesting it again causes page faults,
whose cost depends on the machine and which slow Detectron2 more. In the second table the process keeps its memory
(MALLOC_* variables), which gives the conservative ratio. Results go to ``results/loading``.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from common import RESULTS, ContenderError, in_own_process, make_parser, write_record

CONTENDERS = {
    "Detectron2 DatasetMapper": "detectron2",
    "TinyDatasetMapper (OpenCV)": "opencv",
    "TinyDatasetMapper (with kornia-rs)": "kornia",
    "TinyDatasetMapper, decoded cache": "cache",
}
MEMORY = {"MALLOC_MMAP_THRESHOLD_": str(1 << 30), "MALLOC_TRIM_THRESHOLD_": str(1 << 32)}
_QUEUE_LENGTH = 16  # outputs that stay in memory, as in the queue of a data loader


def write_scenes(folder: Path, number: int) -> None:
    """Write png.json and jpg.json with the images of a number of scenes."""
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


def measure(kind: str, json_file: Path, images: Path, cache: Path, repeats: int) -> dict[str, Any]:
    """Measure milliseconds per image of one mapper (the best of some passes), and a digest of its outputs."""
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
    for record in records:  # Detectron2's mapper drops crowds, ours keeps them
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
    for record in records:  # also fills caches
        result = mapper(record)
        boxes = result["instances"].gt_boxes.tensor.double()
        digest += float(boxes.sum()) + float(result["image"][:, ::7, ::5].double().sum())
        digest += float(result["instances"].gt_classes.sum())
    best = float("inf")
    for _ in range(repeats):
        queue: list[Any] = []
        start = time.perf_counter()
        for record in records:
            queue = [*queue[1 - _QUEUE_LENGTH :], mapper(record)]
        best = min(best, (time.perf_counter() - start) / len(records))
    return {"ms": best * 1e3, "images_per_s": 1 / best, "digest": digest}


def compare(folder: Path, json_file: Path, images: Path, repeats: int, environment: dict[str, str]) -> list[dict]:
    """Measure all mappers on one dataset; those that are not installed are left out."""
    rows: list[dict] = []
    for name, kind in CONTENDERS.items():
        options = ["--one", kind, "--json", str(json_file), "--images", str(images)]
        options += ["--cache", str(folder / f"cache_{json_file.stem}"), "--repeats", str(repeats)]
        try:
            rows.append({"contender": name, **in_own_process(*options, environment=environment)})
        except ContenderError as err:
            if kind == "detectron2":
                raise
            print(f"{name}: left out ({str(err).strip().splitlines()[-1]})")
    for row in rows:
        row["ratio"] = rows[0]["ms"] / row["ms"]
        row["same"] = abs(row["digest"] - rows[0]["digest"]) < 1e-3
    return rows


def main() -> None:
    """Measure all mappers on all datasets, print tables and write the record."""
    parser = make_parser(__doc__)
    parser.add_argument("--json", type=Path, metavar="JSON", help="own data instead of synthetic scenes")
    parser.add_argument("--images", type=Path, metavar="DIR")
    parser.add_argument("--number", type=int, default=40, help="number of synthetic scenes")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--results", type=Path, default=RESULTS / "loading")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    parser.add_argument("--cache", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        print(json.dumps(measure(args.one, args.json, args.images, args.cache, args.repeats)))
        return
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        if args.json:
            sets = {args.json.stem: (args.json, args.images)}
        else:
            write_scenes(folder, args.number)
            sets = {
                "PNG 800²": (folder / "png.json", folder / "png"),
                "JPEG 800²": (folder / "jpg.json", folder / "jpg"),
            }
        tables = {}
        for name, (json_file, images) in sets.items():
            for memory, environment in (("system's malloc", {}), ("memory kept", MEMORY)):
                rows = compare(folder, json_file, images, args.repeats, environment)
                tables[f"{name}, {memory}"] = rows
                print(f"\n{name}, one core, {memory}\n\n| mapper | images/s | ms/image | × Detectron2 | same output |")
                print("|---|---|---|---|---|")
                for row in rows:
                    print(
                        f"| {row['contender']} | {row['images_per_s']:.0f} | {row['ms']:.2f} | {row['ratio']:.2f} | "
                        f"{'yes' if row['same'] else 'NO'} |",
                        flush=True,
                    )
    name = args.json.stem if args.json else "scenes_800"
    write_record(args.results / f"{name}.json", tables=tables)


if __name__ == "__main__":
    main()
