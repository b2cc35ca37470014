"""Cut large images and their annotations into tiles."""

from __future__ import annotations

import hashlib
import json
import logging
import math
from collections import defaultdict
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import cv2
import numpy as np
from tqdm import tqdm

from d2tiny.data.coco.boxes import (
    box_xyxy_to_xywh,
    fitting_area,
    has_area,
    is_ignored,
    read_box,
    xywh_to_xyxy,
    xyxy_to_xywh,
)
from d2tiny.data.coco.document import REGION_KEYS, image_numbers, read_coco_json
from d2tiny.data.coco.findings import Findings
from d2tiny.data.coco.source import relative_name
from d2tiny.data.coco.writer import write_coco
from d2tiny.data.loading.raster import RasterReader
from d2tiny.data.loading.stretch import make_stretch
from d2tiny.utils.errors import ConfigError, DatasetError
from d2tiny.utils.files import open_atomic, read_json, write_text

__all__ = ["TileSettings", "tile_dataset", "tile_starts"]

logger = logging.getLogger(__name__)

_PARTS = ".parts"


@dataclass(frozen=True)
class TileSettings:
    """Settings of tiling.

    Attributes:
        size: side of the square tiles in px; a side of the image that is shorter is not cut.
        overlap: overlap of neighbouring tiles in px. The last tile of a row or column is shifted so that it ends at the
            image border.
        keep: share of an object's area, in [0, 1], that must lie in a tile for the object to be learned there; its box
            is clipped to the tile.
        cut: treatment of objects of which a smaller share lies in the tile: ``ignore`` regions, or ``drop``.
        empty: ``keep`` or ``drop`` tiles without objects and regions.
        suffix: ``.png`` or ``.jpg`` (quality 95).
        stretch: scale of images that are not 8-bit, see :func:`~d2tiny.data.loading.images.read_image`; None refuses
            them.
    """

    size: int = 800
    overlap: int = 200
    keep: float = 0.5
    cut: Literal["ignore", "drop"] = "ignore"
    empty: Literal["keep", "drop"] = "keep"
    suffix: Literal[".png", ".jpg"] = ".png"
    stretch: str | None = None

    def __post_init__(self) -> None:
        if self.size < 16 or not 0 <= self.overlap < self.size or not 0 <= self.keep <= 1:
            raise ConfigError(
                f"Tiles need size >= 16, 0 <= overlap < size, 0 <= keep <= 1; got size={self.size}, "
                f"overlap={self.overlap}, keep={self.keep}."
            )
        for name, allowed in (("cut", ("ignore", "drop")), ("empty", ("keep", "drop")), ("suffix", (".png", ".jpg"))):
            if getattr(self, name) not in allowed:
                raise ConfigError(f"{name}={getattr(self, name)!r} must be one of {', '.join(allowed)}.")
        make_stretch(self.stretch)  # refuses what is none

    def stored(self) -> dict[str, Any]:
        """Return the settings as they are written beside the tiles; without a stretch that was not asked for."""
        return {key: value for key, value in asdict(self).items() if value is not None}


def tile_starts(length: int, size: int, overlap: int) -> list[int]:
    """Return the positions of the tiles along a side in px: steps of ``size - overlap``, the last one at the border."""
    if length <= size:
        return [0]
    count = math.ceil((length - overlap) / (size - overlap))
    return [min(i * (size - overlap), length - size) for i in range(count)]


@dataclass(frozen=True)
class _Source:
    """One large image with its usable annotations and their boxes (G, 4) float64 XYXY, clipped to the image."""

    image: dict[str, Any]
    annotations: list[dict[str, Any]]
    boxes: np.ndarray
    path: Path

    @property
    def stem(self) -> str:
        """Prefix of the tiles' names; it has the folder, so that equal names in two folders stay apart."""
        name = relative_name(self.image["file_name"])
        return "_".join(name.with_suffix("").parts) if name is not None else ""


def _sources(path: Path, images: Path, findings: Findings) -> tuple[list[_Source], list[dict[str, Any]]]:
    data = read_coco_json(path)
    image_numbers(data["images"], path)  # refuses ids that clash
    known = {image["id"] for image in data["images"]}
    by_image: dict[Any, list[tuple[dict[str, Any], list[float]]]] = defaultdict(list)
    for annotation in data["annotations"]:
        box = read_box(annotation.get("bbox"))
        if isinstance(box, str) or not has_area(box):
            findings.add("annotations without a usable box, left out", f"annotation {annotation.get('id')}")
        elif annotation.get("image_id") not in known:
            findings.add("annotations of an unknown image, left out", f"annotation {annotation.get('id')}")
        else:
            by_image[annotation["image_id"]].append((annotation, box))
    result = []
    for image in data["images"]:
        name = relative_name(image.get("file_name"))
        if name is None:
            raise DatasetError(f"{path}: file_name '{image.get('file_name')}' leaves the image folder.")
        pairs = by_image.get(image["id"], [])
        boxes = xywh_to_xyxy(np.array([box for _, box in pairs], dtype=np.float64).reshape(-1, 4))
        # Training clips boxes to the image, so the part outside must not count for the visible share either.
        width, height = (float(image.get(key) or np.inf) for key in ("width", "height"))
        boxes = boxes.clip(0, (width, height, width, height))
        result.append(_Source(image, [a for a, _ in pairs], boxes, images / name))
    stems = [source.stem for source in result]
    if len(set(stems)) < len(stems):
        twice = next(s for s in stems if stems.count(s) > 1)
        raise DatasetError(f"{path}: two images would give tiles of the name '{twice}'.")
    return result, data["categories"]


def _clip(boxes: np.ndarray, x: int, y: int, width: int, height: int) -> tuple[np.ndarray, np.ndarray]:
    """Return XYXY boxes relative to the tile and clipped to it, and the share of their area that lies inside."""
    moved = boxes - (x, y, x, y)
    clipped = moved.clip(0, (width, height, width, height))
    full = (boxes[:, 2:] - boxes[:, :2]).prod(axis=1)
    return clipped, (clipped[:, 2:] - clipped[:, :2]).prod(axis=1) / np.maximum(full, 1e-12)


def _annotations(
    source: _Source, x: int, y: int, width: int, height: int, settings: TileSettings
) -> Iterator[dict[str, Any]]:
    """Yield the annotations of one tile, without ids."""
    clipped, share = _clip(source.boxes, x, y, width, height)
    for i in np.flatnonzero(share > 0):
        old = source.annotations[i]
        ignored = is_ignored(old)
        if share[i] < settings.keep and not ignored:
            if settings.cut == "drop":
                continue
            ignored = True
        box = box_xyxy_to_xywh(clipped[i].tolist())
        area, (w, h) = box[2] * box[3], xyxy_to_xywh(source.boxes[i])[2:]
        old_area = fitting_area(old, w, h)
        new = {k: v for k, v in old.items() if k not in ("id", "image_id", "segmentation")}
        if share[i] > 1 - 1e-9 and isinstance(old.get("segmentation"), list):
            new["segmentation"] = [
                [v - (x, y)[j % 2] for j, v in enumerate(polygon)] for polygon in old["segmentation"]
            ]
        yield {
            **new,
            "bbox": list(box),
            # The outline is unknown: clipping takes the same share of it as of the box.
            "area": area if old_area is None else min(old_area * float(share[i]), area),
            "iscrowd": int(ignored),
            "ignore": int(ignored),
            "source_id": old.get("id"),
            "visible": round(float(share[i]), 4),
        }


def _tiles(source: _Source, output: Path, settings: TileSettings) -> list[dict[str, Any]]:
    """Cut one image: write its tiles, and return their entries, each with its annotations."""
    entries = []
    with RasterReader(source.path, stretch=settings.stretch) as reader:
        if (reader.width, reader.height) != (source.image.get("width"), source.image.get("height")):
            raise DatasetError(
                f"{source.path}: {reader.width}x{reader.height} px, but the json says "
                f"{source.image.get('width')}x{source.image.get('height')}."
            )
        for y in tile_starts(reader.height, settings.size, settings.overlap):
            band = reader.rows(y, min(y + settings.size, reader.height))
            for x in tile_starts(reader.width, settings.size, settings.overlap):
                pixels = band[:, x : x + settings.size]
                entry = _entry(source, x, y, pixels.shape[1], pixels.shape[0], settings)
                if settings.empty == "drop" and not (entry["annotations"] or entry.keys() & set(REGION_KEYS)):
                    continue
                entries.append(entry)
                _write(output / entry["file_name"], pixels)
    return entries


def _entry(source: _Source, x: int, y: int, width: int, height: int, settings: TileSettings) -> dict[str, Any]:
    entry: dict[str, Any] = {
        "file_name": f"{source.stem}__{x}_{y}{settings.suffix}",
        "width": width,
        "height": height,
        "source": {"file_name": source.image["file_name"], "image_id": source.image["id"], "x": x, "y": y},
        "annotations": list(_annotations(source, x, y, width, height, settings)),
    }
    for key in REGION_KEYS:
        boxes = xywh_to_xyxy(np.array(source.image.get(key, []), dtype=np.float64).reshape(-1, 4))
        clipped, share = _clip(boxes, x, y, width, height)
        if (share > 0).any():
            entry[key] = xyxy_to_xywh(clipped[share > 0]).tolist()
    return entry


def _write(path: Path, pixels: np.ndarray) -> None:
    options = [cv2.IMWRITE_JPEG_QUALITY, 95] if path.suffix == ".jpg" else [cv2.IMWRITE_PNG_COMPRESSION, 3]
    done, data = cv2.imencode(path.suffix, cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR), options)
    if not done:
        raise DatasetError(f"{path}: cannot encode this tile.")
    with open_atomic(path) as file:
        file.write(data.tobytes())


def _cut_or_resume(source: _Source, folder: Path, settings: TileSettings) -> list[dict[str, Any]]:
    """Return the tiles of an image, from an earlier run if it finished this image and nothing changed since."""
    part = folder / _PARTS / f"{source.stem}.json"
    try:
        state = source.path.stat()
    except OSError as err:
        raise DatasetError(f"{source.path}: cannot read this image ({err}).") from err
    labels = json.dumps([source.image, source.annotations], sort_keys=True)
    key = [state.st_mtime_ns, state.st_size, hashlib.sha1(labels.encode()).hexdigest()]
    if part.exists():
        done = read_json(part)
        files = [folder / "images" / entry["file_name"] for entry in done["tiles"]]
        if done["key"] == key and all(file.exists() for file in files):
            return done["tiles"]
        for file in files:  # the image may have become smaller
            file.unlink(missing_ok=True)
    entries = _tiles(source, folder / "images", settings)
    write_text(part, json.dumps({"key": key, "tiles": entries}))
    return entries


def tile_dataset(
    path: Path,
    images: Path,
    output: Path,
    settings: TileSettings | None = None,
    *,
    jobs: int = 2,
    progress: bool = True,
) -> dict[str, Any]:
    """Cut a dataset into ``output/images/*`` and ``output/instances.json``.

    Each tile's entry has its ``source`` (file, image id, x, y), each annotation its ``source_id`` and its ``visible``
    share, in [0, 1]. An interrupted run is resumed by the next one. Each job holds one row of tiles in memory.

    Args:
        path: COCO json.
        images: folder that ``file_name`` is relative to.
        output: folder; created if missing.
        settings: sizes, and treatment of cut objects; by default those of :class:`TileSettings`.
        jobs: number of images that are cut at the same time.
        progress: show a progress bar.

    Returns:
        The COCO dict that was written.

    Raises:
        ConfigError: ``output`` holds tiles of other settings.
        DatasetError: an image is missing, broken or of another size than stated; repair it and run again, finished
            images are kept.
    """
    settings = settings or TileSettings()
    findings = Findings()
    sources, categories = _sources(path, images, findings)
    (output / _PARTS).mkdir(parents=True, exist_ok=True)
    (output / "images").mkdir(exist_ok=True)
    _store_settings(output, settings)
    with ThreadPoolExecutor(max(1, jobs)) as pool:
        futures = [pool.submit(_cut_or_resume, source, output, settings) for source in sources]
        try:
            bar = tqdm(futures, desc="tiling", unit="image", disable=not progress, leave=False)
            tiles = [entry for future in bar for entry in future.result()]
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    findings.log(logger, path)
    data = _collect(tiles, categories, settings)
    write_coco(data, output / "instances.json")
    return data


def _store_settings(output: Path, settings: TileSettings) -> None:
    """Store the settings in the folder; refuse a folder that has other settings."""
    file, new = output / ".tiling.json", settings.stored()
    if file.exists():
        old = read_json(file)
        if old != new:
            raise ConfigError(f"{output} holds tiles of other settings ({old}). Choose another folder or empty it.")
        return
    write_text(file, json.dumps(new))


def _collect(tiles: list[dict[str, Any]], categories: list[dict[str, Any]], settings: TileSettings) -> dict[str, Any]:
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for image_id, tile in enumerate(tiles, start=1):
        images.append({"id": image_id, **{k: v for k, v in tile.items() if k != "annotations"}})
        for annotation in tile["annotations"]:
            annotations.append({"id": len(annotations) + 1, "image_id": image_id, **annotation})
    return {
        "info": {"tiling": settings.stored()},
        "images": images,
        "annotations": annotations,
        "categories": categories,
    }
