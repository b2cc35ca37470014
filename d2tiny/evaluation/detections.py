"""Detections as arrays: read from COCO result files and written to them, fast and in little memory."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from operator import attrgetter
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO

import msgspec
import numpy as np

from d2tiny.data.coco.arrays import GroundTruth
from d2tiny.data.coco.boxes import read_box
from d2tiny.data.coco.entries import shown
from d2tiny.data.coco.reader import find_ids
from d2tiny.data.coco.source import common_tail
from d2tiny.data.coco.values import parse_id, parse_number
from d2tiny.data.coco.writer import write_coco_results
from d2tiny.utils.errors import DatasetError
from d2tiny.utils.files import read_json

__all__ = ["Detections", "detections_from_dicts", "load_detections", "write_detections"]

logger = logging.getLogger(__name__)

_LARGEST = 1e100  # px; a model may predict far boxes, but products of larger ones are infinite
_FIRST_CODE = -(2**63) + 1  # of image ids that are text
_BLOCK = 8 << 20  # bytes that are decoded at a time; a detection takes some hundred bytes as Python objects
_WRITTEN = 50_000  # detections that are encoded at a time


class _Detection(msgspec.Struct, gc=False):
    """One entry of a COCO result file; other keys are skipped."""

    image_id: int | str
    category_id: int
    bbox: tuple[float, float, float, float]
    score: float


_Columns = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]


@dataclass(frozen=True)
class Detections:
    """Detections in the order of their file, which decides between equal scores.

    Attributes:
        image: (N,) int32, index into the ground truth's images.
        category: (N,) int32, index into its classes.
        boxes: (N, 4) float64 XYWH in px.
        scores: (N,) float64.
    """

    image: np.ndarray
    category: np.ndarray
    boxes: np.ndarray
    scores: np.ndarray

    def __len__(self) -> int:
        return len(self.scores)

    def __post_init__(self) -> None:
        bad = ~np.isfinite(self.scores) | ~(np.abs(self.boxes) <= _LARGEST).all(axis=1)
        if bad.any():
            first = int(np.flatnonzero(bad)[0])
            raise DatasetError(
                f"{int(bad.sum())} detections have NaN or infinity (first: number {first}, "
                f"bbox {self.boxes[first].tolist()}, score {self.scores[first]})."
            )

    def select(self, keep: np.ndarray) -> Detections:
        """Return the detections at ``keep`` (mask or indices)."""
        return Detections(self.image[keep], self.category[keep], self.boxes[keep], self.scores[keep])


def detections_from_dicts(truth: GroundTruth, detections: Sequence[Mapping[str, Any]]) -> Detections:
    """Build the arrays from COCO-style dicts with ``image_id``, ``category_id``, ``bbox`` (XYWH) and ``score``.

    Raises:
        DatasetError: an unknown image or category, NaN or infinity.
    """
    where, ids = "the detections", _ImageIds()
    return _from_columns([_columns(_entries(list(detections), truth, where), ids)], ids, truth, where)


def _last_object(text: bytes) -> int:
    """Return the position of the last ``{`` that follows ``},``; 0 if there is none."""
    start = text.rfind(b"{")
    while start > 0:
        head = text[max(0, start - 200) : start].rstrip()
        if head.endswith(b",") and head[:-1].rstrip().endswith(b"}"):
            return start
        start = text.rfind(b"{", 0, start)
    return 0


def _pieces(file: BinaryIO) -> Iterator[bytes]:
    """Yield a json array of objects as smaller json arrays of about ``_BLOCK`` bytes each.

    Where a cut falls into a string or a nested object, the array cannot be decoded, which the caller notices.
    """
    rest = file.read(_BLOCK).lstrip()
    if not rest.startswith(b"["):
        raise msgspec.DecodeError("no array")
    rest = rest[1:]
    while block := file.read(_BLOCK):
        text = rest + block
        cut = _last_object(text)
        if not cut:
            if len(text) > 16 * _BLOCK:  # no list of detections
                raise msgspec.DecodeError("no border between objects")
            rest = text
            continue
        yield b"[" + text[:cut].rstrip().rstrip(b",") + b"]"
        rest = text[cut:]
    yield b"[" + rest


class _ImageIds:
    """Image ids of a file as integers: numbers are themselves, texts get codes that are no ids."""

    def __init__(self) -> None:
        self._codes: dict[int | str, int] = {}

    def encode(self, ids: list[Any]) -> np.ndarray:
        """Return ids (N,) int64."""
        if set(map(type, ids)) <= {int}:
            try:
                return np.fromiter(ids, np.int64, len(ids))
            except OverflowError:
                pass
        return np.fromiter(map(self._code, ids), np.int64, len(ids))

    def _code(self, raw: int | str) -> int:
        key = parse_id(raw)
        if isinstance(key, int):
            return key
        return self._codes.setdefault(raw if key is None else key, _FIRST_CODE + len(self._codes))

    def resolve(self, codes: np.ndarray, truth: GroundTruth, path: Path | str) -> np.ndarray:
        """Return the number in the ground truth of each image id (N,): by its ids, or by its file names.

        Raises:
            DatasetError: neither fits all; counts what is unknown.
        """
        if not self._codes and not truth.id_numbers and np.isin(codes, truth.image_ids).all():
            if _name_other_images(codes, truth):
                logger.warning(
                    "%s: its image ids are ids of the ground truth, but also names of other images of it (first: %d). "
                    "They are taken as ids; if they are names, write these as texts with their suffix.", path, codes[0],
                )  # fmt: skip
            return codes
        unique, inverse = np.unique(codes, return_inverse=True)
        texts = {code: key for key, code in self._codes.items()}
        ids = [texts.get(code, code) for code in unique.tolist()]
        known = truth.id_numbers or {number: number for number in truth.image_ids.tolist()}
        numbers = [known.get(key) for key in ids]
        if None in numbers:
            names = _NameIndex(truth)
            by_name = [names.find_id(key, path) for key in ids]
            if None not in by_name:
                logger.info("%s: its image ids are names of files, matched by them.", path)
                numbers = by_name
        unknown = np.array([number is None for number in numbers])
        if unknown.any():
            first = ids[int(np.flatnonzero(unknown)[0])]
            raise DatasetError(
                f"{int(unknown[inverse].sum())} of {len(codes)} image ids of the detections are not in the ground "
                f"truth (first: {first}), neither as ids nor as file names. Are these predictions of another split?"
            )
        return np.array(numbers, dtype=np.int64)[inverse]


def _name_other_images(codes: np.ndarray, truth: GroundTruth) -> bool:
    """Return whether all image ids are also numbers that name images, and mean others then (Ultralytics writes so)."""
    stems = (name.replace("\\", "/").rpartition("/")[2].rpartition(".")[0] for name in truth.file_names)
    pairs = zip(map(parse_id, stems), truth.image_ids.tolist(), strict=True)
    named = {stem: number for stem, number in pairs if isinstance(stem, int)}
    ids = np.unique(codes).tolist() if named else []
    return bool(ids) and all(number in named for number in ids) and any(named[number] != number for number in ids)


def _columns(entries: list[_Detection], ids: _ImageIds) -> _Columns:
    """Return codes of image ids, category ids, boxes and scores."""
    number = len(entries)
    return (
        ids.encode([entry.image_id for entry in entries]),
        np.fromiter(map(attrgetter("category_id"), entries), np.int64, number),
        # three times as fast as an array of tuples
        np.fromiter(chain.from_iterable(map(attrgetter("bbox"), entries)), np.float64, 4 * number).reshape(-1, 4),
        np.fromiter(map(attrgetter("score"), entries), np.float64, number),
    )


def load_detections(path: Path, truth: GroundTruth) -> Detections:
    """Read detections of the images of a ground truth.

    Args:
        path: COCO result json (a list of ``image_id, category_id, bbox, score``), whose image ids are those of the
            ground truth or, all of them, names of its files with or without their suffix; or an object with ``images,
            categories, annotations`` whose annotations have scores (as ``tools/demo.py`` writes), which is matched by
            file and class names. A list is streamed, so that peak memory stays close to the size of the arrays.
        truth: the ground truth of these images.

    Raises:
        DatasetError: not json, a detection without a number or with NaN, an unknown image or category.
    """
    decoder, ids = msgspec.json.Decoder(list[_Detection]), _ImageIds()
    try:
        with path.open("rb") as file:
            columns = [_columns(decoder.decode(piece), ids) for piece in _pieces(file)]
    except FileNotFoundError as err:
        raise DatasetError(f"{path}: no such file.") from err
    except IsADirectoryError as err:
        raise DatasetError(f"{path} is a folder, not a json file.") from err
    except (msgspec.DecodeError, UnicodeDecodeError, OverflowError, RecursionError):
        ids = _ImageIds()
        columns = [_columns(_entries_leniently(path, truth), ids)]
    try:
        return _from_columns(columns, ids, truth, path)
    except DatasetError as err:
        raise DatasetError(f"{path}: {err}") from err


def _from_columns(columns: list[_Columns], ids: _ImageIds, truth: GroundTruth, where: Path | str) -> Detections:
    image, category, boxes, scores = (np.concatenate(parts) for parts in zip(*columns, strict=True))
    return Detections(
        find_ids(truth.image_ids, ids.resolve(image, truth, where), "image ids of the detections"),
        find_ids(truth.category_ids, category, "category ids of the detections"),
        boxes,
        scores,
    )


def _entries_leniently(path: Path, truth: GroundTruth) -> list[_Detection]:
    """Read what the typed decoder refuses: NaN as Python writes it, the layout with names, and files with a mistake."""
    data = read_json(path)
    if isinstance(data, dict) and {"images", "categories", "annotations"} <= set(data):
        return _entries(_named(data, truth, path), truth, path)
    if not isinstance(data, list):
        raise DatasetError(f"{path}: expected a list of detections, or an object with images and annotations.")
    return _entries(data, truth, path)


def _entries(data: list[Any], truth: GroundTruth, path: Path | str) -> list[_Detection]:
    classes = {name: int(number) for number, name in zip(truth.category_ids, truth.classes, strict=True)}
    entries = []
    for i, entry in enumerate(data):
        try:
            entries.append(msgspec.convert(_converted(entry, classes), _Detection))
        except (msgspec.ValidationError, OverflowError, RecursionError) as err:
            raise DatasetError(f"{path}: detection {i} cannot be used: {err}. It is {shown(entry, 200)}") from err
        if parse_id(entries[-1].category_id) is None:
            raise DatasetError(f"{path}: detection {i} cannot be used: its category_id has more than 64 bits.")
    return entries


def _converted(entry: Any, classes: Mapping[str, int]) -> Any:
    """Return a detection with what is understood as numbers; msgspec has the words for the rest.

    Args:
        entry: of the json.
        classes: id of each class name, which may stand for the id.
    """
    if not isinstance(entry, dict):
        return entry
    image, category = parse_id(entry.get("image_id")), parse_id(entry.get("category_id"))
    box, score = read_box(entry.get("bbox")), parse_number(entry.get("score"))
    new: dict[str, Any] = {}
    if image is not None:
        new["image_id"] = image
    if category is not None:
        new["category_id"] = category if isinstance(category, int) else classes.get(category, category)
    if not isinstance(box, str):
        new["bbox"] = box
    if score is not None:
        new["score"] = score
    return {**entry, **new}


def _named(data: dict[str, Any], truth: GroundTruth, path: Path) -> list[dict[str, Any]]:
    """Return the detections of a json with its own ids, renumbered by file and class names."""
    images = _NameIndex(truth)
    classes = {name: int(i) for i, name in zip(truth.category_ids, truth.classes, strict=True)}
    try:
        image_of = {parse_id(image["id"]): images.find(image["file_name"], path) for image in data["images"]}
        class_of = {parse_id(c["id"]): classes.get(str(c["name"]).strip()) for c in data["categories"]}
        result = []
        for i, entry in enumerate(data["annotations"]):
            image, category = image_of[parse_id(entry["image_id"])], class_of[parse_id(entry["category_id"])]
            if image is None or category is None:
                raise DatasetError(f"{path}: the file or class name of detection {i} is not in the ground truth.")
            result.append({**entry, "image_id": image, "category_id": category})
    except (KeyError, TypeError) as err:
        raise DatasetError(f"{path}: a key is missing or unknown: {err}.") from err
    return result


class _NameIndex:
    """Images of a ground truth by file name; among equal names, the one whose path shares the most folders wins."""

    def __init__(self, truth: GroundTruth) -> None:
        self._by_name: dict[str, list[tuple[tuple[str, ...], int]]] = {}
        self._by_stem: dict[int | str | None, list[tuple[tuple[str, ...], int]]] = {}
        for number, name in zip(truth.image_ids.tolist(), truth.file_names, strict=True):
            parts = _parts(name)
            self._by_name.setdefault(parts[-1] if parts else "", []).append((parts, number))
            if parts:  # Ultralytics writes the stem "0012" as 12
                self._by_stem.setdefault(parse_id(PurePosixPath(parts[-1]).stem), []).append((parts, number))

    def find(self, name: Any, path: Path | str) -> int | None:
        """Return the id of the image with this file name, or None.

        Raises:
            DatasetError: two images match equally well.
        """
        parts = _parts(name)
        candidates = self._by_name.get(parts[-1] if parts else "", [])
        return _best(name, candidates, [common_tail(parts, c) for c, _ in candidates], path)

    def find_id(self, key: int | str, path: Path | str) -> int | None:
        """Return the id of the image whose file name is ``key``, also without its suffix, or None.

        Raises:
            DatasetError: two images match equally well.
        """
        parts = _parts(key)
        if not parts or parts[-1] in self._by_name:
            return self.find(key, path)
        candidates = self._by_stem.get(parse_id(parts[-1]), [])
        return _best(key, candidates, [common_tail(parts[:-1], c[:-1]) for c, _ in candidates], path)


def _parts(name: Any) -> tuple[str, ...]:
    return PurePosixPath(str(name).replace("\\", "/")).parts


def _best(name: Any, candidates: list[tuple[tuple[str, ...], int]], common: list[int], path: Path | str) -> int | None:
    """Return the id of the candidate that shares the most parts, or None if there is none."""
    best = [candidate for candidate, n in zip(candidates, common, strict=True) if n == max(common)]
    if len(best) > 1:
        raise DatasetError(f"{path}: '{shown(name)}' may be {'/'.join(best[0][0])} or {'/'.join(best[1][0])}.")
    return best[0][1] if best else None


def write_detections(path: Path, truth: GroundTruth, found: Detections) -> None:
    """Write a COCO result json atomically, with the image and category ids of the ground truth's file."""
    write_coco_results(_blocks(truth, found), path)


def _blocks(truth: GroundTruth, found: Detections) -> Iterator[list[_Detection]]:
    raw = {number: key for key, number in truth.id_numbers.items()}
    ids = np.array([raw.get(number, number) for number in truth.image_ids.tolist()], dtype=object if raw else np.int64)
    images, categories = ids[found.image], truth.category_ids[found.category]
    for start in range(0, len(found), _WRITTEN):
        part = slice(start, start + _WRITTEN)
        boxes = zip(*found.boxes[part].T.tolist(), strict=True)  # tuples are cheaper than lists of lists
        columns = (images[part].tolist(), categories[part].tolist(), boxes, found.scores[part].tolist())
        yield list(map(_Detection, *columns))
