"""Paths of a dataset's json and images, looked up when the dataset is first used and not at import."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from d2tiny.data.coco.entries import shown
from d2tiny.utils.errors import DatasetError

__all__ = ["DatasetSource", "common_tail", "datasets_root", "name_problem", "relative_name", "require_name"]

_DRIVE = re.compile(r"[A-Za-z]:")


def datasets_root() -> Path:
    """Return ``$DETECTRON2_DATASETS``, by default ``./datasets`` as in Detectron2."""
    return Path(os.environ.get("DETECTRON2_DATASETS", "datasets")).expanduser()


def relative_name(name: object) -> PurePosixPath | None:
    """Return a ``file_name`` as a path below the image folder, or None, see :func:`name_problem`."""
    return PurePosixPath(str(name).replace("\\", "/")) if name_problem(name) is None else None


def name_problem(name: object) -> str | None:
    """Return why a ``file_name`` names no file below the image folder, as the end of a sentence, or None."""
    if name is None or name == "":
        return "is missing"
    if not isinstance(name, str):
        return "is no text"
    pure = PurePosixPath(name.replace("\\", "/"))
    if pure.is_absolute() or ".." in pure.parts or _DRIVE.match(name):
        return "leaves the image folder"
    if not pure.parts:
        return "names a folder"
    if "\0" in name or any(len(part.encode(errors="replace")) > 255 for part in pure.parts) or len(name) > 4000:
        return "is no name of a file"
    return None


def require_name(name: object, image: object, path: Path) -> PurePosixPath:
    """Return a ``file_name`` as a path below the image folder.

    Args:
        name: value of the key.
        image: id of the image, for the message.
        path: of the json, for the message.

    Raises:
        DatasetError: see :func:`name_problem`.
    """
    problem = name_problem(name)
    if problem is not None:
        given = f": {shown(name)!r}" if name else ""
        raise DatasetError(
            f"{path}: the file_name of image {shown(image)} {problem}{given}. `d2tiny convert coco --images` finds "
            "files by the last parts of their names."
        )
    return PurePosixPath(str(name).replace("\\", "/"))


def common_tail(a: Sequence[str], b: Sequence[str]) -> int:
    """Return how many last parts two paths share."""
    pairs = zip(reversed(a), reversed(b), strict=False)
    return next((i for i, (x, y) in enumerate(pairs) if x != y), min(len(a), len(b)))


@dataclass(frozen=True)
class DatasetSource:
    """Candidates for the json and the image folders of one dataset.

    Attributes:
        name: the registered name.
        jsons: candidates for the json, the preferred one first; relative paths start at :func:`datasets_root`.
        images: candidates for the image folder likewise; an image is looked for in all folders that exist.
        classes: class names in the order of contiguous ids; None reads them from the json.
        advice: what to do where the files are missing.
    """

    name: str
    jsons: tuple[str, ...]
    images: tuple[str, ...]
    classes: tuple[str, ...] | None = None
    advice: str = "See datasets/README.md."

    def json_file(self) -> Path:
        """Return the first json that exists.

        Raises:
            DatasetError: no candidate exists; lists all of them.
        """
        return self._first(self.jsons, "annotations")

    def image_dirs(self) -> list[Path]:
        """Return all image folders that exist.

        Raises:
            DatasetError: no candidate exists; lists all of them.
        """
        self._first(self.images, "images")
        return [path for path in map(self._absolute, self.images) if path.is_dir()]

    @staticmethod
    def _absolute(path: str) -> Path:
        return path_ if (path_ := Path(path)).is_absolute() else datasets_root() / path_

    def _first(self, candidates: Sequence[str], what: str) -> Path:
        paths = [self._absolute(path) for path in candidates]
        for path in paths:
            if path.exists():
                return path
        looked = ", ".join(str(path.resolve()) for path in paths)
        wanted = candidates[0] if Path(candidates[0]).is_absolute() else f"$DETECTRON2_DATASETS/{candidates[0]}"
        advice = self.advice.replace("$DETECTRON2_DATASETS", str(datasets_root()))
        raise DatasetError(f"'{self.name}' needs its {what} at {wanted} (looked in {looked}). {advice}")
