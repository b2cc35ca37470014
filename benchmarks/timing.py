"""What the benchmarks of models share: a stopwatch, an image with objects, peak memory."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from detectron2.structures import Boxes, Instances


def batch(objects: int, size: int, images: int = 1) -> list[dict[str, Any]]:
    """Images of noise with objects of 12 px on average."""
    generator = torch.Generator().manual_seed(0)
    result = []
    for _ in range(images):
        centre = torch.rand(objects, 2, generator=generator) * size
        half = 6 * torch.exp(torch.randn(objects, 2, generator=generator) / 2)
        boxes = Boxes(torch.cat((centre - half, centre + half), dim=1))
        boxes.clip((size, size))
        instances = Instances((size, size), gt_boxes=boxes, gt_classes=torch.zeros(objects, dtype=torch.int64))
        image = torch.randint(0, 255, (3, size, size), generator=generator, dtype=torch.uint8)
        result.append({"image": image, "instances": instances, "height": size, "width": size})
    return result


class Stopwatch:
    """Times calls by name; on a GPU it waits for the device first."""

    def __init__(self, device: str) -> None:
        self.device = device
        self.seconds: dict[str, list[float]] = defaultdict(list)

    def now(self) -> float:
        """Seconds, after all work of the device is done."""
        if self.device != "cpu":
            torch.cuda.synchronize()
        return time.perf_counter()

    def around(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """The same function, timed."""

        def timed(*args: Any, **kwargs: Any) -> Any:
            with self.of(name):
                return function(*args, **kwargs)

        return timed

    @contextmanager
    def of(self, name: str) -> Iterator[None]:
        """Time a block."""
        start = self.now()
        yield
        self.seconds[name].append(self.now() - start)

    def best(self) -> dict[str, float]:
        """Least seconds of each name, without its first call."""
        return {name: round(min(times[1:]), 4) for name, times in self.seconds.items()}


def peak_mb(device: str) -> float:
    """Largest memory so far: of the process, or on the GPU of its tensors."""
    if device != "cpu":
        return torch.cuda.max_memory_allocated() / 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def in_own_process(*arguments: str) -> dict[str, Any]:
    """What this script prints as its last line, as json, when it runs again with other arguments, on one thread.

    Raises:
        SystemExit: it failed; with what it wrote to stderr.
    """
    done = subprocess.run(
        [sys.executable, sys.argv[0], *arguments],
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        check=False,
    )
    if done.returncode:
        raise SystemExit(done.stderr)
    row: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return row
