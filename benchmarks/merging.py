#!/usr/bin/env python
"""Compare the merging of tiles with SAHI's GREEDYNMM and with supervision's NMS and NMM, on the same detections.

    pip install --target peers --no-deps sahi supervision defusedxml pydeprecate fire av
    PYTHONPATH=peers python benchmarks/merging.py

An oracle (``oracle.py``) looks at random scenes: it knows the objects, cuts them at the edges of its tiles, adds
jitter, misses some and finds some twice. Each contender merges what it found, with its default threshold of 0.5.
Counted are the objects that two or more tiles see in whole or in part: ``lost`` although a tile found them, ``extra``
objects that are none, and by how many px a side of the box that a tile saw is wrong beyond three standard deviations of
the jitter. Then the time of merging many boxes is measured, on one thread, without the detector. Writes
``results/scenes/merging.json``. Peers that are not installed are left out.
"""

from __future__ import annotations

import os
import resource
import time
from collections.abc import Callable
from typing import Any

import numpy as np
from common import RESULTS, make_parser, write_record
from oracle import Oracle, Truth, iou_matrix, random_case, random_scene
from tqdm import tqdm

from d2tiny.inference.merge import MergeSettings, SeamMerger, Views
from d2tiny.inference.tiles import TileGrid

Found = list[tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]]  # of each tile: boxes, scores, classes, objects
Merge = Callable[[Found, TileGrid], Views]


def ours(found: Found, grid: TileGrid, settings: MergeSettings | None = None) -> Views:
    """Merge with d2tiny."""
    merger = SeamMerger(grid, settings)
    return Views.joined([v for i, (b, s, c, _) in enumerate(found) for v in merger.add(i, b, s, c)])


def sahi_greedy_nmm(found: Found, grid: TileGrid) -> Views:
    """Merge as SAHI's ``get_sliced_prediction`` does by default."""
    from sahi.postprocess.combine import GreedyNMMPostprocess
    from sahi.prediction import ObjectPrediction

    shape = [grid.height, grid.width]
    predictions = []
    for i, (boxes, scores, classes, _) in enumerate(found):
        x0, y0, _, _ = grid.window(i)
        for box, score, cls in zip(boxes.tolist(), scores.tolist(), classes.tolist(), strict=True):
            one = ObjectPrediction(
                bbox=box, score=score, category_id=cls, category_name=str(cls), shift_amount=[x0, y0], full_shape=shape
            )
            predictions.append(one.get_shifted_object_prediction())
    merged = GreedyNMMPostprocess(match_threshold=0.5, match_metric="IOS", class_agnostic=False)(predictions)
    boxes = np.array([p.bbox.to_xyxy() for p in merged], dtype=np.float64).reshape(-1, 4)
    scores, classes = [p.score.value for p in merged], [p.category.id for p in merged]
    return Views(boxes, np.array(scores, np.float32), np.array(classes, np.int64))


def _supervision(found: Found, grid: TileGrid, method: str) -> Views:
    import supervision as sv

    offsets = [np.array(grid.window(i)[:2] * 2, np.float64) for i in range(len(found))]
    detections = sv.Detections(
        xyxy=np.concatenate([b + o for (b, _, _, _), o in zip(found, offsets, strict=True)]),
        confidence=np.concatenate([s for _, s, _, _ in found]),
        class_id=np.concatenate([c for _, _, c, _ in found]),
    )
    merged = getattr(detections, method)(threshold=0.5)
    return Views(merged.xyxy.astype(np.float64), merged.confidence, merged.class_id)


def supervision_nms(found: Found, grid: TileGrid) -> Views:
    """Merge with the default of supervision's ``InferenceSlicer``."""
    return _supervision(found, grid, "with_nms")


def supervision_nmm(found: Found, grid: TileGrid) -> Views:
    """Merge with supervision's non-maximum merging."""
    return _supervision(found, grid, "with_nmm")


def contenders() -> dict[str, Merge]:
    """Return the contenders that are installed."""
    result: dict[str, Merge] = {"d2tiny": ours}
    for module, functions in (("sahi", (sahi_greedy_nmm,)), ("supervision", (supervision_nms, supervision_nmm))):
        try:
            __import__(module)
        except ImportError:
            print(f"{module} is not installed: left out")
        else:
            result |= {function.__name__: function for function in functions}
    return result


def detect(oracle: Oracle, grid: TileGrid) -> Found:
    """Return what the oracle finds in each tile."""
    return [oracle.tile(grid.window(i), i) for i in range(len(grid))]


def near_seams(boxes: np.ndarray, grid: TileGrid) -> np.ndarray:
    """Return (N,) whether two or more tiles see a part of a box."""
    w = grid.windows
    meets = (boxes[:, None, :2] < w[None, :, 2:]).all(axis=2) & (boxes[:, None, 2:] > w[None, :, :2]).all(axis=2)
    return meets.sum(axis=1) > 1


def seen_sides(found: Found, truth: Truth, grid: TileGrid) -> np.ndarray:
    """Return (N, 4) whether a tile that found an object sees this side of it: no merging can know others."""
    seen = np.zeros((len(truth.boxes), 4), np.bool_)
    for i, (_, _, _, objects) in enumerate(found):
        window, boxes = np.array(grid.window(i)), truth.boxes[objects]
        seen[objects] |= np.hstack((boxes[:, :2] >= window[:2], boxes[:, 2:] <= window[2:]))
    return seen


def errors(merged: Views, found: Found, oracle: Oracle, grid: TileGrid) -> dict[str, float]:
    """Return the errors near seams of one scene, as sums."""
    truth = oracle.truth
    known = np.zeros(len(truth.boxes), np.bool_)
    known[np.concatenate([objects for _, _, _, objects in found])] = True
    iou = iou_matrix(truth.boxes, merged.boxes)
    pairs = np.argwhere(iou > 0.1)
    pairs = pairs[np.argsort(-iou[tuple(pairs.T)], kind="stable")]
    of_truth, of_merged = np.full(len(truth.boxes), -1), np.full(len(merged.boxes), -1)
    for i, j in pairs:
        if of_truth[i] < 0 and of_merged[j] < 0:
            of_truth[i], of_merged[j] = j, i
    seam = near_seams(truth.boxes, grid) & known
    both = np.flatnonzero(seam & (of_truth >= 0))
    off = np.abs(truth.boxes[both] - merged.boxes[of_truth[both]])
    size = np.tile(truth.boxes[both, 2:] - truth.boxes[both, :2], 2)
    excess = (off - 3 * np.maximum(0.3, oracle.jitter * size)).clip(0) * seen_sides(found, truth, grid)[both]
    return {
        "objects": int(seam.sum()),
        "lost": int((seam & (of_truth < 0)).sum()),
        "extra": int((near_seams(merged.boxes, grid) & (of_merged < 0)).sum()),
        "box_px": float(excess.mean(axis=1).sum()),
        "boxes_wrong": int((excess > 1).any(axis=1).sum()),
    }


def quality(scenes: int, first: int, methods: dict[str, Merge]) -> list[dict[str, Any]]:
    """Return the errors of each contender over random scenes, in shares of the objects near seams."""
    sums: dict[str, dict[str, float]] = {name: {} for name in methods}
    for seed in tqdm(range(first, first + scenes), desc="scenes", leave=False):
        _, grid, oracle = random_case(seed)
        found = detect(oracle, grid)
        for name, merge in methods.items():
            for key, value in errors(merge(found, grid), found, oracle, grid).items():
                sums[name][key] = sums[name].get(key, 0) + value
    rows = []
    for name, total in sums.items():
        count = max(1.0, total["objects"])
        row = {"contender": name, "objects": int(total["objects"])}
        row["count_error_%"] = round(100 * (total["lost"] + total["extra"]) / count, 2)
        row |= {f"{key}_%": round(100 * total[key] / count, 2) for key in ("lost", "extra", "boxes_wrong")}
        rows.append({**row, "box_error_px": round(total["box_px"] / count, 3)})
    return rows


def speed(counts: list[int], methods: dict[str, Merge], slowest: float) -> list[dict[str, Any]]:
    """Return the seconds that each contender takes; slow ones are left out of larger scenes."""
    rows = []
    late: set[str] = set()
    for count in counts:
        side = int((count * 900) ** 0.5)
        truth = random_scene(np.random.default_rng(0), side, side, count, crowded=True)
        grid = TileGrid(side, side, 640, 128)
        found = detect(Oracle(truth, 0), grid)
        row: dict[str, Any] = {"boxes": sum(len(scores) for _, scores, _, _ in found), "tiles": len(grid)}
        for name, merge in methods.items():
            row[name] = None if name in late else _seconds(merge, found, grid, slowest)
            if not isinstance(row[name], float) or row[name] > slowest:
                late.add(name)
        rows.append(row)
    return rows


def _seconds(merge: Merge, found: Found, grid: TileGrid, slowest: float) -> float | str:
    """Return the best time of some calls in a process of its own, which may take 8 GB."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        resource.setrlimit(resource.RLIMIT_AS, (8 << 30, 8 << 30))
        times: list[float] = []
        try:
            while len(times) < 5 and sum(times) < slowest / 4:
                start = time.perf_counter()
                merge(found, grid)
                times.append(time.perf_counter() - start)
            os.write(writer, f"{min(times):.4f}".encode())
        except MemoryError:
            os.write(writer, b"over 8 GB")
        finally:
            os._exit(0)
    os.close(writer)
    os.waitpid(child, 0)
    answer = os.read(reader, 100).decode()
    os.close(reader)
    try:
        return float(answer)
    except ValueError:
        return answer or "failed"


def show(rows: list[dict[str, Any]]) -> None:
    """Print a table."""
    print("| " + " | ".join(rows[0]) + " |\n" + "|---" * len(rows[0]) + "|")
    for row in rows:
        print("| " + " | ".join("-" if value is None else str(value) for value in row.values()) + " |")


def main() -> None:
    """Measure quality and speed, print both tables and write the record."""
    parser = make_parser(__doc__)
    parser.add_argument("--scenes", type=int, default=300)
    parser.add_argument("--first", type=int, default=1000, help="seed of the first scene")
    parser.add_argument("--counts", type=int, nargs="+", default=[2000, 15_000, 75_000, 400_000])
    parser.add_argument("--slowest", type=float, default=60.0, help="seconds above which larger scenes are left out")
    args = parser.parse_args()
    methods = contenders()
    ours(detect(random_case(0)[2], random_case(0)[1]), random_case(0)[1])  # compiles
    rows = quality(args.scenes, args.first, methods)
    show(rows)
    times = speed(args.counts, methods, args.slowest)
    show(times)
    write_record(RESULTS / "scenes" / "merging.json", quality=rows, seconds=times)


if __name__ == "__main__":
    main()
