"""The files that a scene leaves: map or table, picture, page."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from urllib.parse import urlsplit

import numpy as np

from d2tiny.inference.page import write_page
from d2tiny.inference.pixels import ScenePixels, is_url
from d2tiny.inference.preview import draw_preview
from d2tiny.inference.scene import SceneDetections
from d2tiny.inference.writers import FORMATS, open_writer
from d2tiny.utils.errors import ConfigError

__all__ = ["OutputSettings", "draw_outputs", "scene_stem", "scene_targets", "write_maps"]

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class OutputSettings:
    """What is written of each scene, beside the ``detections.json`` of all.

    Attributes:
        formats: names of ``FORMATS``; None writes GeoJSON of scenes with coordinates, and nothing of others.
        picture: an annotated picture.
        page: a page to zoom into; None writes one if there is only one scene, and it has several tiles.
    """

    formats: tuple[str, ...] | None = None
    picture: bool = True
    page: bool | None = None

    def __post_init__(self) -> None:
        unknown = sorted(set(self.formats or ()) - set(FORMATS))
        if unknown:
            raise ConfigError(f"--format {','.join(unknown)}: choose of {', '.join(FORMATS)}.")

    def of_scene(self, mapped: bool) -> tuple[str, ...]:
        """Return the formats of a scene that has coordinates, or not."""
        return (("geojson",) if mapped else ()) if self.formats is None else self.formats


def scene_targets(names: Sequence[str], output: Path, settings: OutputSettings) -> list[Path]:
    """Return the path without suffix of what each scene leaves; those of one name (of two folders) get numbers.

    Args:
        names: files or URLs of the scenes.
        output: folder.
        settings: what is written.

    Raises:
        ConfigError: an output would overwrite an input.
    """
    inputs = {Path(name).resolve() for name in names}
    suffixes = [".jpg", ".html", *(FORMATS[f] for f in settings.formats or ("geojson",))]
    taken = {"detections", "failed"}  # files of the run
    targets = []
    for name in names:
        stem, number = scene_stem(name), 2
        while stem in taken:
            stem, number = f"{scene_stem(name)}_{number}", number + 1
        taken.add(stem)
        for suffix in suffixes:
            target = output / f"{stem}{suffix}"
            if target.resolve() in inputs:
                raise ConfigError(f"--output {output}: {target.name} would overwrite an input; choose another folder.")
        targets.append(output / stem)
    return targets


def scene_stem(name: str) -> str:
    """Return the name of a file or a URL without folder, suffix and query."""
    return PurePosixPath(urlsplit(name).path).stem or "scene" if is_url(name) else Path(name).stem


def write_maps(target: Path, found: SceneDetections, settings: OutputSettings) -> None:
    """Write maps and tables of one scene, each whole or not at all.

    Args:
        target: path without suffix.
        found: objects in px of the file.
        settings: what is written.

    Raises:
        ConfigError: a map of a scene without coordinates.
        OSError: a file cannot be written.
    """
    scene = found.scene
    formats = settings.of_scene(scene.geo is not None)
    if settings.formats is None and scene.geo is None:
        logger.info("%s: no coordinates; boxes in px are in detections.json.", scene.path)
    with ExitStack() as stack:
        for name in formats:
            writer = stack.enter_context(open_writer(_path(target, FORMATS[name]), scene))
            writer.write(found)


def draw_outputs(
    target: Path, found: SceneDetections, pixels: ScenePixels, settings: OutputSettings, *, page: bool
) -> None:
    """Draw picture and page of one scene, each whole or not at all.

    Args:
        target: path without suffix.
        found: objects in px of the file.
        pixels: of the scene.
        settings: what is written.
        page: whether a page is.

    Raises:
        DatasetError: the file is damaged.
        OSError: a file cannot be written.
    """
    looked_at = _in_looked_at(found, pixels)
    if settings.picture:
        draw_preview(looked_at.scene, [looked_at], pixels, _path(target, ".jpg"))
    if page:
        write_page(_path(target, ".html"), looked_at.scene, [looked_at], pixels)


def _path(target: Path, suffix: str) -> Path:
    # Not with_suffix, which would cut names with dots.
    return target.with_name(target.name + suffix)


def _in_looked_at(found: SceneDetections, pixels: ScenePixels) -> SceneDetections:
    """Return objects in px of what was looked at: the file's, but where it was resampled."""
    scene, (sx, sy) = found.scene, pixels.scale
    if (sx, sy) == (1.0, 1.0):
        return found
    geo = None if scene.geo is None else scene.geo.resampled(sx, sy)
    scene = replace(scene, width=pixels.width, height=pixels.height, geo=geo)
    return replace(found, scene=scene, boxes=found.boxes / np.array((sx, sy, sx, sy)))
