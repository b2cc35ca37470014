"""Cut large images and their annotations into tiles."""

from __future__ import annotations

import hashlib
import json
import logging
import math
import re
from collections import Counter, defaultdict
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from itertools import groupby
from pathlib import Path
from typing import Any, Literal

import numpy as np
from tqdm import tqdm

from d2tiny.data.coco.boxes import (
    box_xyxy_to_xywh,
    fitting_area,
    has_area,
    xywh_to_xyxy,
    xyxy_to_xywh,
)
from d2tiny.data.coco.document import REGION_KEYS, CocoEntries, coco_entries
from d2tiny.data.coco.entries import (
    Label,
    read_annotation,
    read_outline,
    read_regions,
    shown,
    with_usable_outline,
    without_nan,
)
from d2tiny.data.coco.findings import Findings
from d2tiny.data.coco.source import relative_name, require_name
from d2tiny.data.coco.values import parse_id, parse_size
from d2tiny.data.coco.writer import write_coco
from d2tiny.data.loading.headers import read_header
from d2tiny.data.loading.raster import RasterReader
from d2tiny.data.loading.stretch import make_stretch
from d2tiny.data.tools.converters.base import list_images
from d2tiny.data.tools.image_files import write_image
from d2tiny.data.tools.places import movable_keys, moved_keys
from d2tiny.utils.errors import ConfigError, DatasetError
from d2tiny.utils.files import read_json, write_text

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
    """One large image: its entry, its usable annotations and their boxes (G, 4) float64 XYXY, clipped to the image.

    The entry has ``file_name, id, width, height`` and regions only, the annotations what can be copied into tiles.
    """

    image: dict[str, Any]
    annotations: list[dict[str, Any]]
    boxes: np.ndarray
    path: Path

    @property
    def stem(self) -> str:
        """Prefix of the tiles' names; it has the folder, so that equal names in two folders stay apart."""
        name = relative_name(self.image["file_name"])
        return "_".join(name.with_suffix("").parts) if name is not None else ""


def _read(path: Path, findings: Findings) -> CocoEntries:
    """Return the entries of a json, which may have no annotations, or of a folder of images."""
    if path.is_dir():
        data: Any = {"images": list(_listed(path)), "annotations": [], "categories": []}
    else:
        data = read_json(path)
        if isinstance(data, dict) and data.get("annotations", data.get("annotation")) is None:
            data = {"categories": [], **data}
    return coco_entries(data, path, findings, labelled=False)


def _listed(folder: Path) -> Iterator[dict[str, Any]]:
    """Yield an entry for each image of a folder."""
    for number, path in enumerate(list_images(folder), start=1):
        try:
            width, height = read_header(path).size
        except (OSError, ValueError) as err:
            raise DatasetError(f"{path}: cannot read this image ({err}). Repair it or take it out.") from err
        yield {"id": number, "file_name": path.name, "width": width, "height": height}


def _sources(path: Path, images: Path, findings: Findings) -> tuple[list[_Source], list[dict[str, Any]]]:
    entries = _read(path, findings)
    by_image = _usable_annotations(entries, findings)
    if entries.listed and not by_image:
        raise DatasetError(f"{path}: no annotation could be used: {findings}. Without annotations, images are cut too.")
    result = []
    for image, number in zip(entries.images, entries.image_numbers.values(), strict=True):
        usable = _image_entry(image, path, findings)
        pairs = by_image.get(number, [])
        boxes = xywh_to_xyxy(np.array([box for _, box in pairs], dtype=np.float64).reshape(-1, 4))
        # Training clips boxes to the image, so the part outside must not count for the visible share either.
        width, height = usable["width"], usable["height"]
        boxes = boxes.clip(0, (width, height, width, height))
        result.append(_Source(usable, [a for a, _ in pairs], boxes, images / str(relative_name(usable["file_name"]))))
    stems = [source.stem for source in result]
    if len(set(stems)) < len(stems):
        counts = Counter(stems)
        twice = next(s for s in stems if counts[s] > 1)
        raise DatasetError(f"{path}: two images would give tiles of the name '{twice}'. Rename one or take it out.")
    categories = [
        {**without_nan(category, f"category {number}", findings), "id": number}
        for category, number in zip(entries.categories, entries.category_numbers.values(), strict=True)
    ]
    return result, categories


def _image_entry(image: dict[str, Any], path: Path, findings: Findings) -> dict[str, Any]:
    """Return what tiles need of an image's entry, in json's types.

    Raises:
        DatasetError: it has no usable file name or size.
    """
    name, sizes = image.get("file_name"), [parse_size(image.get(side)) for side in ("width", "height")]
    require_name(name, image["id"], path)
    if None in sizes:
        stated = [shown(image.get(side)) for side in ("width", "height")]
        raise DatasetError(
            f"{path}: {shown(name)}: width and height are {' and '.join(stated)}; they must be whole numbers of px. "
            "`d2tiny convert coco --images` writes a copy with the sizes of the files."
        )
    entry = {"id": parse_id(image["id"]), "file_name": name, "width": sizes[0], "height": sizes[1]}
    for key in REGION_KEYS:
        regions = [list(box) for box in read_regions(image, key, findings) if has_area(box)]
        if regions:
            entry[key] = regions
    return entry


def _usable_annotations(
    entries: CocoEntries, findings: Findings
) -> dict[int, list[tuple[dict[str, Any], tuple[float, ...]]]]:
    """Return the usable annotations of each image number, as they can be copied, and their XYWH boxes in px."""
    by_image: dict[int, list[tuple[dict[str, Any], tuple[float, ...]]]] = defaultdict(list)
    for annotation in entries.annotations:
        label = read_annotation(annotation, entries.image_numbers, entries.category_numbers, findings)
        where = f"annotation {shown(annotation.get('id'))}"
        if label is not None and not has_area(label.box):
            findings.add("boxes without area", f"{where}: {list(label.box)}")
        elif label is not None:
            by_image[label.image].append((_copied(annotation, label, where, findings), label.box))
    return by_image


def _copied(annotation: dict[str, Any], label: Label, where: str, findings: Findings) -> dict[str, Any]:
    """Return an annotation without what tiles replace, cannot hold, or would hold at the place in the scene."""
    ignored = int(label.ignored)
    standard = {"id": parse_id(annotation.get("id")), "category_id": label.category, "bbox": list(label.box)}
    standard |= {"iscrowd": ignored, "ignore": ignored}
    others = movable_keys(with_usable_outline(annotation, where, findings), label.box, where, findings)
    others.pop("image_id", None)
    return without_nan({**others, **standard}, where, findings)


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
        ignored = bool(old["iscrowd"])
        if share[i] < settings.keep and not ignored:
            if settings.cut == "drop":
                continue
            ignored = True
        box = box_xyxy_to_xywh(clipped[i].tolist())
        area, (w, h) = box[2] * box[3], xyxy_to_xywh(source.boxes[i])[2:]
        old_area = fitting_area(old, w, h)
        kept = {k: v for k, v in old.items() if k not in ("id", "segmentation")}
        new = moved_keys(kept, x, y, width, height, whole=bool(share[i] > 1 - 1e-9))
        outline = read_outline(old.get("segmentation"))
        if outline is not None and share[i] > 1 - 1e-9:
            new["segmentation"] = [[v - (x, y)[j % 2] for j, v in enumerate(polygon)] for polygon in outline]
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
    with RasterReader(source.path, stretch=settings.stretch) as reader:
        if (reader.width, reader.height) != (source.image.get("width"), source.image.get("height")):
            raise DatasetError(
                f"{source.path}: {reader.width}x{reader.height} px, but the json says "
                f"{source.image.get('width')}x{source.image.get('height')}."
            )
        entries = list(_entries(source, reader.width, reader.height, settings))
        for y, row in groupby(entries, key=lambda entry: entry["source"]["y"]):
            band = reader.rows(y, min(y + settings.size, reader.height))
            for entry in row:
                x = entry["source"]["x"]
                write_image(output / entry["file_name"], band[:, x : x + entry["width"]])
    return entries


def _entries(source: _Source, width: int, height: int, settings: TileSettings) -> Iterator[dict[str, Any]]:
    """Yield the entries of an image's tiles, row by row."""
    for y in tile_starts(height, settings.size, settings.overlap):
        for x in tile_starts(width, settings.size, settings.overlap):
            entry = _entry(source, x, y, min(settings.size, width), min(settings.size, height), settings)
            if settings.empty == "keep" or entry["annotations"] or entry.keys() & set(REGION_KEYS):
                yield entry


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


def _cut_or_resume(source: _Source, folder: Path, settings: TileSettings) -> list[dict[str, Any]]:
    """Return the tiles of an image, from an earlier run if it finished this image and nothing changed since."""
    part = folder / _PARTS / f"{source.stem}.json"
    try:
        state = source.path.stat()
    except OSError as err:
        raise DatasetError(f"{source.path}: cannot read this image ({err}).") from err
    labels = json.dumps([source.image, source.annotations], sort_keys=True)
    key = [state.st_mtime_ns, state.st_size, hashlib.sha1(labels.encode()).hexdigest()]
    done = _earlier(part, source.stem)
    files = [folder / "images" / entry["file_name"] for entry in done["tiles"]]
    if done["key"] == key and all(file.exists() for file in files):
        entries = list(_entries(source, source.image["width"], source.image["height"], settings))
        if entries == done["tiles"]:
            return entries
    _index(folder).unlink(missing_ok=True)  # it does not describe the tiles that are written from now on
    for file in files:  # the image may have become smaller
        file.unlink(missing_ok=True)
    entries = _tiles(source, folder / "images", settings)
    write_text(part, json.dumps({"key": key, "tiles": entries}))
    return entries


def _index(folder: Path) -> Path:
    """Return the json of the tiles, which is there only while it fits all of them."""
    return folder / "instances.json"


def _earlier(part: Path, stem: str) -> dict[str, Any]:
    """Return the ``key`` and ``tiles`` that an earlier run stored of an image.

    Others may have written to the folder: what names other files than tiles of the image counts as nothing.
    """
    nothing: dict[str, Any] = {"key": None, "tiles": []}
    if not part.is_file():
        return nothing
    tile = re.compile(re.escape(stem) + r"__\d+_\d+\.(png|jpg)")
    try:
        done = read_json(part)
        if all(tile.fullmatch(entry["file_name"]) for entry in done["tiles"]):
            return {"key": done["key"], "tiles": done["tiles"]}
    except (DatasetError, KeyError, TypeError):
        pass
    logger.warning("%s was not written by tiling; the image is cut again.", part)
    return nothing


def tile_dataset(
    path: Path,
    images: Path,
    output: Path,
    settings: TileSettings | None = None,
    *,
    jobs: int = 2,
    progress: bool = True,
) -> dict[str, Any]:
    """Cut a dataset, or images without labels, into ``output/images/*`` and ``output/instances.json``.

    Each tile's entry has its ``source`` (file, image id, x, y), each annotation its ``source_id`` and its ``visible``
    share, in [0, 1]. An interrupted run is resumed by the next one. Each job holds one row of tiles in memory.

    Args:
        path: COCO json; one without annotations, as COCO's lists of test images are, is cut all the same, and so is a
            folder of images.
        images: folder that ``file_name`` is relative to; a folder of images itself.
        output: folder; created if missing.
        settings: sizes, and treatment of cut objects; by default those of :class:`TileSettings`.
        jobs: number of images that are cut at the same time.
        progress: show a progress bar.

    Returns:
        The COCO dict that was written.

    Raises:
        ConfigError: ``output`` holds tiles of other settings, or a link to another folder where it keeps its state.
        DatasetError: an image is missing, broken or of another size than stated; repair it and run again, finished
            images are kept.
    """
    settings = settings or TileSettings()
    findings = Findings()
    sources, categories = _sources(path, images, findings)
    if (output / _PARTS).is_symlink():
        raise ConfigError(f"{output / _PARTS} is a link, which is not followed. Remove it or choose another folder.")
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
    write_coco(data, _index(output))
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
