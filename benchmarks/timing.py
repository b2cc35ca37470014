"""Helpers of the benchmarks that run models: a stopwatch, random images with objects, peak memory."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from common import peak_memory_mb
from detectron2.structures import Boxes, Instances


def batch(objects: int, size: int, images: int = 1) -> list[dict[str, Any]]:
    """Return a batch of noise images with objects of 12 px on average.

    Args:
        objects: number of objects in each image.
        size: side of the images in px.
        images: number of images.
    """
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
    """Measures the time of calls by name: on a GPU until the device is ready, on a CPU that of the processor.

    The processor time of one thread is the wall time of a machine that does nothing else.
    """

    def __init__(self, device: str) -> None:
        self.device = device
        self.seconds: dict[str, list[float]] = defaultdict(list)

    def now(self) -> float:
        """Return the time in seconds after all work of the device is done."""
        if self.device == "cpu":
            return time.process_time()
        torch.cuda.synchronize()
        return time.perf_counter()

    def timed(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """Return the function such that its calls are measured under a name."""

        def wrapper(*args: Any, **kwargs: Any) -> Any:
            with self.measure(name):
                return function(*args, **kwargs)

        return wrapper

    @contextmanager
    def measure(self, name: str) -> Iterator[None]:
        """Measure a ``with`` block under a name."""
        start = self.now()
        yield
        self.seconds[name].append(self.now() - start)

    def best(self) -> dict[str, float]:
        """Return the shortest time of each name in seconds, without its first call."""
        return {name: round(min(times[1:]), 4) for name, times in self.seconds.items()}


def peak_mb(device: str) -> float:
    """Return the largest memory so far in MB: of the process, or of the tensors on the GPU."""
    if device != "cpu":
        return torch.cuda.max_memory_allocated() / 2**20
    return peak_memory_mb()
