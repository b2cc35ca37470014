#!/usr/bin/env python
"""Measure runs over whole scenes: tiles a second, peak memory, and a million objects from tiles to files.

    python benchmarks/scenes.py                 # all parts
    python benchmarks/scenes.py --part large    # one of them

``throughput``: some GeoTIFFs in tiles of 512 px by one process, by two shards in two processes, and over a Ray cluster
on this machine (a process a core), one thread each. The rate is that of the last three quarters of the tiles, so that
importing and building models do not count.

``large``: a 20,000² px GeoTIFF of three bands (1.2 GB raw), in tiles of 800 px, a million objects. The model looks at
every 31st tile only; what is in the others is made up, so that the run takes minutes. Memory is the peak of the process
from reading to the last file, over what it has with the model loaded. Then GeoJSON, GeoParquet and the COCO json are
written; times of reading and detecting, of merging, and of each file.

``parts``: what a run costs beside the model: a unit of work over Ray (processor time of the driver), a record of the
journal, a megapixel of JPEG 2000.

Writes ``results/scenes/runs.json``. Other processes on the machine make the rates lower: the load is in the file.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from common import RESULTS, in_own_process, make_parser, peak_memory_mb, write_record

CONFIG = "quick/faster_rcnn_lite0_fpn_rfla"
OVERRIDES = ["model.roi_heads.box_predictor.test_topk_per_image=100"]
PARTS = ("throughput", "large", "parts")
MODEL_EVERY = 31  # tiles of the large scene


def write_raster(path: Path, side: int, seed: int, driver: str = "GTiff", **options: Any) -> Path:
    """Write a raster of side² px that repeats a picture of noise with bright squares; a row of blocks is in memory."""
    import rasterio

    rng = np.random.default_rng(seed)
    picture = rng.integers(60, 120, (3, 1024, 1024), dtype=np.uint8)
    for x, y, size in rng.integers((0, 0, 4), (1000, 1000, 24), (400, 3)).tolist():
        picture[:, y : y + size, x : x + size] = rng.integers(0, 255, (3, 1, 1))
    form = {"driver": driver, "width": side, "height": side, "count": 3, "dtype": "uint8", "crs": "EPSG:32631"}
    if driver == "GTiff":
        form |= {"tiled": True, "blockxsize": 512, "blockysize": 512}
    place = rasterio.Affine(0.5, 0, 448_000, 0, -0.5, 5_411_500)
    columns = np.arange(side) % 1024
    with rasterio.open(path, "w", transform=place, **{**form, **options}) as file:
        for top in range(0, side, 512):
            rows = np.arange(top, min(top + 512, side)) % 1024
            file.write(picture[:, rows][:, :, columns], window=rasterio.windows.Window(0, top, side, len(rows)))
    return path


def config() -> Any:
    """Return the config of a narrow detector with weights at random."""
    import torch

    from d2tiny import model_zoo

    torch.manual_seed(0)
    torch.set_num_threads(1)
    return model_zoo.get_cfg(CONFIG, "", OVERRIDES, "cpu")


class Clock:
    """A sink that notes when tiles are done."""

    def __init__(self, shard: int, shards: int) -> None:
        """Take one of some equal parts of each scene."""
        self.times: list[float] = []
        self._shard, self._shards = shard, shards

    def begin(self, scene: int, head: Any) -> Sequence[int]:
        """Return a part of the tiles."""
        count = len(head.grid)
        return [unit for unit in range(count) if unit * self._shards // count == self._shard]

    def found(self, scene: int, unit: int, found: Any) -> None:
        """Note the time."""
        self.times.append(time.time())

    def end(self, scene: int, pixels: Any) -> None:
        """Nothing is written."""

    def fail(self, scene: int, error: BaseException) -> None:
        """Nothing may fail."""
        raise error

    def rate(self) -> float:
        """Return tiles a second of the last three quarters."""
        times = self.times[len(self.times) // 4 :]
        return (len(times) - 1) / (times[-1] - times[0])


def measure_rate(folder: Path, shard: int, shards: int, ray: bool) -> dict[str, Any]:
    """Measure tiles a second of this process, or of the cluster that it starts."""
    from d2tiny.inference import RunSettings, TileSettings
    from d2tiny.inference.engine import Engine, LocalEngine
    from d2tiny.inference.predictor import TiledPredictor
    from d2tiny.inference.ray import RayEngine

    settings = RunSettings(TileSettings(512, 64), ray="auto" if ray else "", progress=False)
    scenes = sorted(map(str, folder.glob("*.tif")))
    engine: Engine = (
        RayEngine(config(), settings, scenes)
        if ray
        else LocalEngine(TiledPredictor(config(), **settings.predictor_options()), settings.read)
    )
    clock = Clock(shard, shards)
    try:
        engine.run(list(enumerate(scenes)), clock)
    finally:
        engine.close()
    return {"tiles": len(clock.times), "tiles_per_s": round(clock.rate(), 2), "mb": round(peak_memory_mb())}


def throughput(args: argparse.Namespace) -> list[dict[str, Any]]:
    """Compare ways to spread scenes."""
    with tempfile.TemporaryDirectory() as name:
        for number in range(args.scenes):
            write_raster(Path(name) / f"{number}.tif", args.side, number)
        rows = [{"run": "one process", **_child("rate", name, 0, 1, 0)}]
        processes = [_start("rate", name, shard, 2, 0) for shard in range(2)]
        pair = [_finish(process) for process in processes]
        rows.append({"run": "two shards in two processes", **_summed(pair)})
        rows.append({"run": "Ray on this machine", **_child("rate", name, 0, 1, 1)})
    for row in rows:
        row["times"] = round(row["tiles_per_s"] / rows[0]["tiles_per_s"], 2)
    return rows


def _summed(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    return {key: round(sum(row[key] for row in rows), 2) for key in ("tiles", "tiles_per_s", "mb")}


def _child(*arguments: object) -> dict[str, Any]:
    return in_own_process("--child", *map(str, arguments))


def _start(*arguments: object) -> subprocess.Popen[str]:
    command = [sys.executable, sys.argv[0], "--child", *map(str, arguments)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)


def _finish(process: subprocess.Popen[str]) -> dict[str, Any]:
    output, _ = process.communicate()
    if process.returncode:
        raise SystemExit(f"{process.args} failed")
    row: dict[str, Any] = json.loads(output.splitlines()[-1])
    return row


# --- a large scene ------------------------------------------------------------------------------------------------


def sparse_predictor(objects: int) -> Any:
    """Return a predictor whose model looks at every 31st tile; the others have made objects, of which there are many.

    Args:
        objects: in a tile.
    """
    import torch
    from detectron2.structures import Boxes, Instances

    from d2tiny.inference.predictor import TiledPredictor

    class Sparse(TiledPredictor):
        """The model with gaps."""

        looked = 0

        def detect(self, images: Sequence[np.ndarray], *, whole: bool = False) -> list[Instances]:
            """Return what is in tiles."""
            self.looked += 1
            if self.looked % MODEL_EVERY == 1:
                return super().detect(images, whole=whole)
            return [self._made(*image.shape[:2]) for image in images]

        def _made(self, height: int, width: int) -> Instances:
            g = torch.Generator().manual_seed(self.looked)
            corner = torch.rand((objects, 2), generator=g) * torch.tensor([width - 20.0, height - 20.0])
            found = Instances((height, width))
            found.pred_boxes = Boxes(torch.cat((corner, corner + 4 + 12 * torch.rand((objects, 2), generator=g)), 1))
            found.scores = 0.3 + 0.7 * torch.rand(objects, generator=g)
            found.pred_classes = torch.randint(0, len(self.classes), (objects,), generator=g)
            return found

    return Sparse(config(), 800, 64)


class Keeper:
    """A sink that keeps what was found as a run does, in a part of the journal."""

    def __init__(self, path: Path) -> None:
        """Write to a file."""
        self.path = path

    def begin(self, scene: int, head: Any) -> Sequence[int]:
        """Return all tiles."""
        from d2tiny.inference.journal import PartFile

        self.head = head
        self._part = PartFile(self.path, head.stored())
        return range(len(head.grid))

    def found(self, scene: int, unit: int, found: Any) -> None:
        """Write a record."""
        self._part.add(unit, found)

    def end(self, scene: int, pixels: Any) -> None:
        """Close the file."""
        self._part.close()

    def fail(self, scene: int, error: BaseException) -> None:
        """Nothing may fail."""
        raise error


def resident_mb() -> float:
    """Return the memory of this process."""
    return float(Path("/proc/self/status").read_text().split("VmRSS:")[1].split()[0]) / 1024


def measure_large(path: Path, objects: int) -> dict[str, Any]:
    """Measure a run over a scene."""
    from d2tiny.inference.engine import LocalEngine
    from d2tiny.inference.pixels import ReadSettings
    from d2tiny.inference.run import merge_scene
    from d2tiny.inference.scene import SceneDetections

    predictor = sparse_predictor(objects)
    loaded = resident_mb()
    predictor.detect([np.zeros((800, 800, 3), np.uint8)])
    one_tile = peak_memory_mb()
    engine, keeper = LocalEngine(predictor, ReadSettings()), Keeper(path.parent / "0.tiles")
    row: dict[str, Any] = {}
    with _timed(row, "tiles_s"):
        engine.run([(0, str(path))], keeper)
    peak = {"tiles": peak_memory_mb()}
    with _timed(row, "merge_s"):
        views = merge_scene(keeper.head, [keeper.path], 1, engine.merge_settings)
    peak["merging"] = peak_memory_mb()
    found = SceneDetections(keeper.head.scene(engine.classes, "made"), *views)
    for suffix in (".geojson", ".parquet", ".json"):
        with _timed(row, f"{suffix[1:]}_s"):
            found.to_file(path.with_suffix(suffix))
        peak[suffix[1:]] = peak_memory_mb()
    sizes = {f"{s[1:]}_mb": round(path.with_suffix(s).stat().st_size / 1e6) for s in (".geojson", ".parquet", ".json")}
    over = {f"{name}_over_model_mb": round(mb - loaded) for name, mb in peak.items()}
    return {
        "tiles": len(keeper.head.grid),
        "objects": len(found),
        **row,
        **sizes,
        "model_mb": round(loaded),
        "one_tile_over_model_mb": round(one_tile - loaded),
        **over,
    }


@contextmanager
def _timed(row: dict[str, Any], key: str) -> Iterator[None]:
    start = time.monotonic()
    yield
    row[key] = round(time.monotonic() - start, 2)


def large(args: argparse.Namespace) -> list[dict[str, Any]]:
    """Measure a large scene."""
    with tempfile.TemporaryDirectory() as name:
        path = write_raster(Path(name) / "large.tif", args.large_side, 0)
        return [_child("large", path, args.objects)]


# --- what is not the model ----------------------------------------------------------------------------------------


def measure_parts(folder: Path) -> dict[str, Any]:
    """Measure single costs of a run."""
    from d2tiny.inference.raster import open_pixels

    path = write_raster(folder / "s2.jp2", 2048, 0, "JP2OpenJPEG", quality=100, reversible="YES")
    pixels = open_pixels(path)
    jp2 = _best(lambda: pixels.read(0, 0, 2048, 2048), 3)
    pixels.close()
    return {
        "jp2_megapixels_per_s": round(2048 * 2048 / 1e6 / jp2, 1),
        "journal_us_per_unit": round(_journal(folder) * 1e6, 1),
        "ray_us_per_unit": round(_ray_round() * 1e6, 1),
    }


def _journal(folder: Path) -> float:
    """Return the seconds that a record of 50 objects takes."""
    from d2tiny.inference.journal import PartFile
    from d2tiny.inference.task import UnitFound

    objects = UnitFound(
        np.zeros(50, np.int32), np.zeros((50, 4), np.float32), np.zeros(50, np.float32), np.zeros(50, np.int32)
    )
    part = PartFile(folder / "0.tiles", {"path": "x"})
    start = time.monotonic()
    for unit in range(2000):
        part.add(unit, objects)
    seconds = time.monotonic() - start
    part.close()
    return seconds / 2000


def _ray_round() -> float:
    """Return the seconds of the driver's process that a unit over Ray takes: what the actor does is nothing."""
    import ray

    from d2tiny.inference.actors import ActorPool, Job, Started
    from d2tiny.inference.task import UnitFound

    class Nothing:
        def build(self) -> int:
            return 1

        def find(self, objects: UnitFound) -> UnitFound:
            return objects

    os.environ.setdefault("RAY_worker_niceness", "0")
    ray.init(address="local", num_cpus=1, include_dashboard=False, log_to_driver=False, object_store_memory=100 << 20)
    try:

        def start() -> Started:
            actor = ray.remote(Nothing).remote()
            return Started(actor, actor.build.remote())

        pool = ActorPool(start, lambda actor, answer: None, lambda: 1)
        pool.warm()
        objects = UnitFound(
            np.zeros(50, np.int32), np.zeros((50, 4), np.float32), np.zeros(50, np.float32), np.zeros(50, np.int32)
        )
        for unit in range(500):
            pool.submit(Job("find", 0, (objects,), unit=unit))
        start_s = time.process_time()
        while pool.busy:
            pool.take()
        return (time.process_time() - start_s) / 500
    finally:
        ray.shutdown()


def _best(work: Callable[[], object], rounds: int) -> float:
    best = float("inf")
    for _ in range(rounds):
        start = time.monotonic()
        work()
        best = min(best, time.monotonic() - start)
    return best


def parts(args: argparse.Namespace) -> list[dict[str, Any]]:
    """Measure what a run costs beside the model."""
    with tempfile.TemporaryDirectory() as name:
        return [_child("parts", name)]


def child(words: Sequence[str]) -> None:
    """Measure one thing in this process and print it."""
    what, place, *numbers = words[0], Path(words[1]), *map(int, words[2:])
    if what == "rate":
        row = measure_rate(place, numbers[0], numbers[1], bool(numbers[2]))
    else:
        row = measure_large(place, numbers[0]) if what == "large" else measure_parts(place)
    print(json.dumps(row))


def main() -> None:
    """Run the parts, print and write them."""
    parser = make_parser(__doc__)
    parser.add_argument("--part", choices=PARTS, nargs="+", default=list(PARTS))
    parser.add_argument("--scenes", type=int, default=6, help="GeoTIFFs of the throughput table")
    parser.add_argument("--side", type=int, default=1400, help="their side in px")
    parser.add_argument("--large-side", type=int, default=20_000, help="of the large scene in px")
    parser.add_argument("--objects", type=int, default=1400, help="in each tile of the large scene")
    parser.add_argument("--child", nargs="+", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        child(args.child)
        return
    path = RESULTS / "scenes" / "runs.json"
    known = json.loads(path.read_text()) if path.exists() else {}
    measured = {name: known[name] for name in PARTS if name in known}
    for name in args.part:
        load = os.getloadavg()[0]
        measured[name] = {"load_before": round(load, 1), "rows": globals()[name](args)}
        for row in measured[name]["rows"]:
            print(json.dumps(row))
        write_record(path, config=CONFIG, overrides=OVERRIDES, **measured)


if __name__ == "__main__":
    main()
