"""Where a dataset lies on disk, found out when it is first used and not at import."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from d2tiny.utils.errors import DatasetError

__all__ = ["DatasetSource", "datasets_root"]


def datasets_root() -> Path:
    """Return ``$DETECTRON2_DATASETS``, by default ``./datasets`` as in Detectron2."""
    return Path(os.environ.get("DETECTRON2_DATASETS", "datasets")).expanduser()


@dataclass(frozen=True)
class DatasetSource:
    """Candidates for the json and the image folders of one dataset.

    Attributes:
        name: the registered name.
        jsons: possible json files, the preferred first; relative ones lie under :func:`datasets_root`.
        images: possible image folders likewise; an image is looked for in all that exist.
        classes: names in the order of contiguous ids; None reads them from the json.
    """

    name: str
    jsons: tuple[str, ...]
    images: tuple[str, ...]
    classes: tuple[str, ...] | None = None

    def json_file(self) -> Path:
        """Return the first json that exists.

        Raises:
            DatasetError: none does; lists where it looked.
        """
        return self._first(self.jsons, "annotations")

    def image_dirs(self) -> list[Path]:
        """Return all image folders that exist.

        Raises:
            DatasetError: none does; lists where it looked.
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
        raise DatasetError(f"'{self.name}' needs its {what} at {wanted} (looked in {looked}). See datasets/README.md.")
