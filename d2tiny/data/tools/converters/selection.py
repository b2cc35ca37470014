"""Choose images of a dataset by what their entries say, such as those of one source."""

from __future__ import annotations

import fnmatch
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from d2tiny.data.coco.entries import shown
from d2tiny.data.coco.findings import Findings
from d2tiny.data.tools.converters.base import RawImage
from d2tiny.utils.errors import DatasetError

__all__ = ["selected_images"]

_SHOWN = 8  # values in a message


def selected_images(
    images: Iterator[RawImage], root: Path, patterns: Sequence[tuple[str, str]], findings: Findings
) -> Iterator[RawImage]:
    """Yield the images that fit.

    Args:
        images: as a reader yields them.
        root: folder that file names are relative to.
        patterns: keys of an image's entry and globs, with capitals and small letters told apart. Of each key at least
            one glob must fit; an image without the key does not fit. ``file_name`` is the path from ``root`` on.
        findings: gets the number of images that are left out, and globs that fit no image.

    Raises:
        DatasetError: no image fits; says which values there are.
    """
    keys = dict.fromkeys(key for key, _ in patterns)
    unused = set(patterns)
    values = {key: Counter[str]() for key in keys}
    chosen = left_out = 0
    for image in images:
        fitting = set()
        for key in keys:
            value = _value(image, root, key)
            if value is not None:
                values[key][value] += 1
                fitting |= {(k, glob) for k, glob in patterns if k == key and fnmatch.fnmatchcase(value, glob)}
        unused -= fitting
        if {key for key, _ in fitting} == set(keys):
            chosen += 1
            yield image
        else:
            left_out += 1
    if not chosen and left_out:
        raise DatasetError(f"{root}: no image fits {_named(patterns)}. {_known(values)}")
    if left_out:
        findings.add("images that were not chosen, left out", _named(patterns), "note", count=left_out)
    for key, glob in sorted(unused):
        findings.add("globs of --where that no image fits", f"{key}={glob}. {_known({key: values[key]})}")


def _value(image: RawImage, root: Path, key: str) -> str | None:
    """Return what the entry of an image has under a key, as text; None for nothing, or for no text or number."""
    value: Any = image.path.relative_to(root).as_posix() if key == "file_name" else image.extra.get(key)
    return str(value) if isinstance(value, str | int | float) else None


def _named(patterns: Sequence[tuple[str, str]]) -> str:
    return ", ".join(f"{key}={glob}" for key, glob in patterns)


def _known(values: dict[str, Counter[str]]) -> str:
    """Return a sentence about the values that occur, the most frequent first."""
    sentences = []
    for key, counts in values.items():
        most = [f"'{shown(value)}' ({count})" for value, count in counts.most_common(_SHOWN)]
        more = f" and {len(counts) - _SHOWN} more" if len(counts) > _SHOWN else ""
        sentences.append(f"Values of '{key}': {', '.join(most)}{more}." if most else f"No image has the key '{key}'.")
    return " ".join(sentences)
