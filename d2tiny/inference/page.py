"""A scene and what was found in it as one HTML file: zoom, filter, count, without a network."""

from __future__ import annotations

import base64
import hashlib
import html
import json
import logging
import re
from collections.abc import Iterable, Iterator, Mapping
from importlib.resources import files
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from d2tiny.inference.compact import CompactDetections, gather
from d2tiny.inference.pyramid import Pixels, TilePyramid, reduced_rows, reduction
from d2tiny.inference.scene import Scene, SceneDetections
from d2tiny.inference.scores import scores_text
from d2tiny.utils.errors import ConfigError, DatasetError
from d2tiny.utils.files import open_atomic
from d2tiny.utils.pictures import encode_jpeg
from d2tiny.visualization import class_color
from d2tiny.visualization.style import STYLE

__all__ = ["PAGE_SIZE", "write_page"]

logger = logging.getLogger(__name__)

PAGE_SIZE = 8192
_SMALLEST_PAGE = 256
_TILE = 512
_QUALITY = 85
_BASE64_BYTES = 3 << 20  # encoded at once; a multiple of three, so that parts can be joined


def write_page(
    path: Path, scene: Scene, chunks: Iterable[SceneDetections], image: Pixels, *, page_size: int = PAGE_SIZE
) -> None:
    """Write a self-contained HTML page of a scene.

    The page holds the image as a tile pyramid (JPEG), the objects as binary arrays, and the viewer; it loads nothing,
    and its content security policy forbids it to. Rows of the image are read once, from top to bottom, and tiles are
    written as they are complete: memory does not grow with the height of the image.

    Args:
        path: the file; a file that is there is replaced, and none is left half-written.
        scene: the scene.
        chunks: its objects.
        image: its pixels, of the scene's width and height.
        page_size: a scene whose longer side has more px is reduced to this in the page; boxes keep their place.

    Raises:
        ConfigError: ``page_size`` is less than 256.
        DatasetError: the pixels cannot be read or are not of the scene's size, or the objects are none of this scene's.
        OSError: the file cannot be written.
    """
    if page_size < _SMALLEST_PAGE:
        raise ConfigError(f"--page-size {page_size}: it must be at least {_SMALLEST_PAGE} px.")
    if (image.width, image.height) != (scene.width, scene.height):
        raise DatasetError(
            f"{scene.path}: pixels of {image.width}×{image.height} px do not belong to a scene of "
            f"{scene.width}×{scene.height} px."
        )
    found = gather(scene, chunks).by_score()
    factor = reduction(image.width, image.height, page_size)
    width, height = -(-image.width * factor // 1), -(-image.height * factor // 1)
    scripts = [_viewer("openseadragon.min.js"), _viewer("page.js")]
    with open_atomic(path) as file:
        pyramid = TilePyramid(width, height, lambda *tile: _write_tile(file, *tile), tile=_TILE)
        view = {"width": width, "height": height, "factor": float(factor), "tile": _TILE, "levels": pyramid.levels}
        file.write(_encode(_head(scene, len(found.scores), scripts)))
        for rows in reduced_rows(image, factor):
            pyramid.add(rows)
        pyramid.close()
        _write_objects(file, found)
        file.write(_encode(_script("application/json", "data-scene", _json(_describe(scene, view)))))
        for script in scripts:
            file.write(_encode(f"<script>{script}</script>\n"))
        file.write(b"</body></html>\n")
        size = file.tell()
    logger.info("%s: %.1f MB, image of %d×%d px, %d objects", path, size / 1e6, width, height, len(found.scores))


def _viewer(name: str) -> str:
    """Return a packaged file of the page."""
    return (files("d2tiny.inference") / "viewer" / name).read_text(encoding="utf-8")


def _encode(text: str) -> bytes:
    """Return UTF-8; names of files may hold bytes that are no text."""
    return text.encode("utf-8", "replace")


def _json(value: Any) -> str:
    """Return json that cannot end the script element that it stands in."""
    text = json.dumps(value, ensure_ascii=True, separators=(",", ":"))
    return text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e")


def _script(kind: str, name: str, content: str) -> str:
    """Return a block of data, which browsers do not run."""
    return f'<script type="{kind}" id="{name}">{content}</script>\n'


def _describe(scene: Scene, view: dict[str, Any]) -> dict[str, Any]:
    """Return what the script needs to know."""
    colors = ["#{:02x}{:02x}{:02x}".format(*class_color(i)) for i in range(len(scene.classes))]
    return {
        "width": scene.width,
        "height": scene.height,
        "classes": list(scene.classes),
        "colors": colors,
        "crs": _crs_name(scene),
        "transform": list(scene.geo.transform) if scene.geo else None,
        "image": view,
    }


def _crs_name(scene: Scene) -> str:
    """Return the short name of the coordinate reference system: of WKT, the first quoted name."""
    if scene.geo is None:
        return ""
    quoted = re.search(r'\["([^"]+)"', scene.geo.crs)
    return quoted[1] if quoted else scene.geo.crs


def _write_tile(file: BinaryIO, level: int, column: int, row: int, pixels: np.ndarray) -> None:
    data = encode_jpeg(pixels, _QUALITY)
    file.write(f'<script type="text/plain" id="tile-{level}-{column}-{row}">'.encode())
    file.write(base64.b64encode(data))
    file.write(b"</script>\n")


def _write_objects(file: BinaryIO, found: CompactDetections) -> None:
    """Write the objects by ascending score: boxes as float32, scores in 1/65535, classes; little-endian."""
    small = not len(found.classes) or int(found.classes.max()) < 256
    arrays = {
        "boxes": found.boxes.astype("<f4"),
        "scores": np.round(found.scores.clip(0, 1).astype(np.float64) * 65535).astype("<u2"),
        "classes": found.classes.astype("u1" if small else "<u2"),
    }
    for name, array in arrays.items():
        kind = f"{array.dtype.kind}{array.dtype.itemsize}"
        file.write(f'<script type="text/plain" id="data-{name}" data-kind="{kind}">'.encode())
        data = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
        for start in range(0, len(data), _BASE64_BYTES):
            file.write(base64.b64encode(data[start : start + _BASE64_BYTES].tobytes()))
        file.write(b"</script>\n")


def _policy(scripts: Iterable[str]) -> str:
    """Return a content security policy: nothing is loaded, and only these scripts run."""
    digests = (base64.b64encode(hashlib.sha256(_encode(script)).digest()).decode() for script in scripts)
    allowed = " ".join(f"'sha256-{digest}'" for digest in digests)
    return f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src {allowed}"


def _head(scene: Scene, count: int, scripts: Iterable[str]) -> str:
    """Return the page up to the data: styles, headings and controls."""
    title = html.escape(Path(scene.path).name or "scene")
    facts = [f"{count:,} objects", f"{scene.width:,} × {scene.height:,} px"]
    facts += [text for text in (_crs_name(scene), scene.model, scene.time) if text]
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{_policy(scripts)}"><title>{title}</title>'
        f'<meta name="viewport" content="width=device-width, initial-scale=1"><meta name="color-scheme" '
        f'content="light dark"><style>{STYLE}{_viewer("page.css")}</style></head>\n'
        f"<body><header><h1>{title}</h1><p>{html.escape(' · '.join(facts))}</p></header>\n"
        f"{_viewer('page.html').replace('<!-- record -->', ''.join(_record(scene)))}\n"
    )


def _record(scene: Scene) -> Iterator[str]:
    """Yield rows of the table of settings."""
    facts = {"model": scene.model, "time": scene.time, **scene.settings}
    if isinstance(facts.get("score"), Mapping):
        facts["score"] = scores_text(facts["score"])
    for name, value in facts.items():
        if value not in ("", None):
            yield f"<tr><th>{html.escape(str(name))}</th><td>{html.escape(str(value))}</td></tr>"
