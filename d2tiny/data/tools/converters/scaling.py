"""Smaller copies of a dataset's images, and its labels with them: benchmarks of larger objects become tiny ones."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from tqdm import tqdm

from d2tiny.data.coco.findings import Findings
from d2tiny.data.coco.values import parse_number
from d2tiny.data.loading.headers import read_header
from d2tiny.data.loading.images import read_image
from d2tiny.data.loading.stretch import make_stretch
from d2tiny.data.tools.converters.base import RawImage, RawObject
from d2tiny.data.tools.image_files import write_image
from d2tiny.data.tools.places import movable_keys, scaled_keys
from d2tiny.utils.errors import ConfigError, DatasetError
from d2tiny.utils.files import read_json, write_text

__all__ = ["Scaling", "scaled_images"]

_MARK = ".scaled.json"  # settings of the smaller images, among them
_KEPT = frozenset({".jpg", ".jpeg", ".png"})


@dataclass(frozen=True)
class Scaling:
    """How much smaller the images become, and where they are written.

    Attributes:
        factor: new width by old width, above 0 and below 1.
        parent: folder in which the folder of the smaller images lies.
        name: of that folder; by default that of the original one.
        stretch: scale of images that are not 8-bit, see :func:`~d2tiny.data.loading.images.read_image`; None refuses
            them.
        jobs: number of images that are read and written at the same time; each job holds one image in memory.
    """

    factor: float
    parent: Path
    name: str | None = None
    stretch: str | None = None
    jobs: int = 2

    def __post_init__(self) -> None:
        if not 0 < self.factor < 1:
            raise ConfigError(f"scale={self.factor} must be above 0 and below 1: 0.5 halves both sides of the images.")
        if self.jobs < 1:
            raise ConfigError(f"jobs={self.jobs} must be at least 1.")
        make_stretch(self.stretch)  # refuses what is none

    def folder(self, root: Path) -> Path:
        """Return the folder that gets the smaller images of ``root``.

        Raises:
            ConfigError: originals lie there, or files that another conversion or nobody knows who wrote.
        """
        folder = self.parent / (self.name or root.resolve().name)
        if folder.resolve().is_relative_to(root.resolve()):
            raise ConfigError(
                f"The smaller images would be written to {folder}, into the folder of the originals. Name another "
                "folder with --scaled-images."
            )
        if folder.exists() and not folder.is_dir():
            raise ConfigError(f"{folder} is a file; name a folder with --scaled-images.")
        found = self._found(folder)
        if found is not None and found != self._stored(root):
            raise ConfigError(
                f"{folder} holds {f'images of another conversion ({found})' if found else 'other files'}. Empty it or "
                "name another folder with --scaled-images."
            )
        return folder

    def mark(self, folder: Path, root: Path) -> None:
        """Store in the folder what its images were made of."""
        write_text(folder / _MARK, json.dumps(self._stored(root)))

    def _stored(self, root: Path) -> dict[str, Any]:
        return {"scale": self.factor, "stretch": self.stretch, "originals": str(root.resolve())}

    @staticmethod
    def _found(folder: Path) -> Any:
        """Return the settings in a folder; an empty dict for files without settings, None for no files."""
        if (folder / _MARK).is_file():
            return read_json(folder / _MARK)
        return {} if folder.is_dir() and any(folder.iterdir()) else None


def scaled_images(
    images: Iterable[RawImage], root: Path, scaling: Scaling, findings: Findings, *, progress: bool = True
) -> tuple[Path, Iterator[RawImage]]:
    """Write smaller copies of images, by the mean over areas, and scale their labels.

    JPEGs stay JPEGs (quality 95), others become PNGs; grey images stay grey. A copy gets the time of its original, and
    where one of that time exists it is kept: an interrupted conversion goes on when it is started again.

    Args:
        images: of a format's reader.
        root: folder of the originals, to which the copies' paths are relative.
        scaling: factor and folder.
        findings: gets images that cannot be read, and keys of labels that cannot be scaled.
        progress: show a progress bar.

    Returns:
        The folder of the copies, and the images one by one; each copy is complete when its image comes.

    Raises:
        ConfigError: the folder of the copies holds other files.
    """
    folder = scaling.folder(root)
    return folder, _copies(images, root, folder, scaling, findings, progress)


def _copies(
    images: Iterable[RawImage], root: Path, folder: Path, scaling: Scaling, findings: Findings, progress: bool
) -> Iterator[RawImage]:
    """Yield the images of :func:`scaled_images`."""
    bar = tqdm(images, desc="reading", unit="image", disable=not progress, leave=False)
    targets = _targets(bar, root, folder, findings)
    if targets:
        scaling.mark(folder, root)
    with ThreadPoolExecutor(scaling.jobs) as pool:
        sizes = {target: _size(raw, scaling.factor) for target, raw in targets.items()}
        problems = pool.map(lambda t: _write_copy(targets[t].path, t, sizes[t], scaling.stretch), targets)
        bar = tqdm(targets.items(), desc="scaling", unit="image", disable=not progress, leave=False)
        try:
            for (target, raw), problem in zip(bar, problems, strict=True):
                if problem is not None:
                    findings.add("images that cannot be read, left out", f"{raw.path}: {problem}", "error")
                else:
                    yield _scaled(raw, target, sizes[target], findings)
        finally:
            pool.shutdown(cancel_futures=True)


def _targets(images: Iterable[RawImage], root: Path, folder: Path, findings: Findings) -> dict[Path, RawImage]:
    """Return the image of each copy; of two whose copies would have one name, the second is left out."""
    targets: dict[Path, RawImage] = {}
    for raw in images:
        target = folder / raw.path.relative_to(root)
        if target.suffix.lower() not in _KEPT:
            target = target.with_suffix(".png")
        if target in targets:
            findings.add("images whose smaller copies would share a name, left out", str(raw.path), "error")
        else:
            targets[target] = raw
    return targets


def _size(raw: RawImage, factor: float) -> tuple[int, int]:
    """Return the width and height in px of a copy."""
    return max(1, round(raw.size[0] * factor)), max(1, round(raw.size[1] * factor))


def _write_copy(source: Path, target: Path, size: tuple[int, int], stretch: str | None) -> str | None:
    """Write one copy, unless an earlier run did; return why the original cannot be read, or None.

    Raises:
        OSError: the copy cannot be written.
    """
    try:
        time = source.stat().st_mtime_ns
        if target.is_file() and not target.is_symlink() and target.stat().st_mtime_ns == time:
            return None
        pixels = read_image(source, stretch=stretch)
        grey = "grey" in read_header(source).colours
    except (DatasetError, OSError, ValueError) as err:
        return str(err).removeprefix(f"{source}: ")
    small = cv2.resize(pixels, size, interpolation=cv2.INTER_AREA)
    write_image(target, np.ascontiguousarray(small[..., 0]) if grey else small)
    os.utime(target, ns=(time, time))
    return None


def _scaled(raw: RawImage, target: Path, size: tuple[int, int], findings: Findings) -> RawImage:
    """Return the labels of an image for its copy."""
    sx, sy = size[0] / raw.size[0], size[1] / raw.size[1]
    whole = (0, 0, *raw.size)
    extra = scaled_keys(movable_keys(raw.extra, whole, raw.path.name, findings), sx, sy)
    gsd = parse_number(extra.get("gsd"))
    if gsd is not None:
        extra["gsd"] = gsd * 2 / (sx + sy)  # m/px
    return RawImage(
        target,
        size,
        [_scaled_object(item, sx, sy, item.where or raw.path.name, findings) for item in raw.objects],
        [_scaled_box(box, sx, sy) for box in raw.ignored_regions],
        [_scaled_box(box, sx, sy) for box in raw.ignored_boxes],
        extra,
    )


def _scaled_object(item: RawObject, sx: float, sy: float, where: str, findings: Findings) -> RawObject:
    kept = movable_keys(item.extra, item.box, where, findings)
    if isinstance(kept.get("segmentation"), dict):
        findings.add("run-length outlines, not copied", where)
        del kept["segmentation"]
    area = None if item.area is None else item.area * sx * sy
    return replace(item, box=_scaled_box(item.box, sx, sy), area=area, extra=scaled_keys(kept, sx, sy))


def _scaled_box(box: Sequence[float], sx: float, sy: float) -> tuple[float, float, float, float]:
    x, y, w, h = box
    return x * sx, y * sy, w * sx, h * sy
