"""Which scenes a user names: files, folders, globs, URLs, lists."""

from __future__ import annotations

import glob
from collections.abc import Sequence
from pathlib import Path

from d2tiny.data.coco.entries import shown
from d2tiny.data.loading.headers import IMAGE_SUFFIXES
from d2tiny.inference.pixels import is_url
from d2tiny.utils.errors import DatasetError

__all__ = ["SCENE_SUFFIXES", "collect_scenes"]

SCENE_SUFFIXES = IMAGE_SUFFIXES | {".jp2", ".vrt"}


def collect_scenes(inputs: Sequence[str]) -> list[str]:
    """Turn files, folders, globs, URLs and ``.txt`` lists of them into a sorted list of scenes.

    Raises:
        DatasetError: an input that matches nothing, or is no name.
    """
    found: set[str] = set()
    for text in inputs:
        try:
            names = _scenes_of(text)
        except (OSError, ValueError) as err:  # no rights, or no name of a file
            raise DatasetError(f"{shown(text)}: cannot look for images here ({shown(err)}).") from err
        if not names:
            raise DatasetError(f"{shown(text)}: no image here (looked for {', '.join(sorted(SCENE_SUFFIXES))}).")
        found.update(names)
    return sorted(found)


def _scenes_of(text: str) -> list[str]:
    """Return the scenes of a folder, a glob or a list; a file or a URL itself."""
    if is_url(text):
        return [text]
    path = Path(text)
    if path.is_dir():
        return [str(f) for f in path.iterdir() if f.suffix.lower() in SCENE_SUFFIXES]
    if path.exists():
        return _listed(path) if path.suffix.lower() == ".txt" else [str(path)]
    found = glob.glob(text, recursive=True)  # noqa: PTH207  absolute patterns too
    return [f for f in found if Path(f).suffix.lower() in SCENE_SUFFIXES]


def _listed(path: Path) -> list[str]:
    """Return the scenes of a list, one a line, relative to the list; lines that start with # are none."""
    lines = [line.strip() for line in path.read_text(encoding="utf-8-sig").splitlines()]
    names = [line for line in lines if line and not line.startswith("#")]
    return [name if is_url(name) else str(path.parent / name) for name in names]
