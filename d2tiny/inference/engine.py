"""Who does the work of a run: this process, or others that give the same answers."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from d2tiny.data.loading.headers import read_header
from d2tiny.inference.merge import MergeSettings
from d2tiny.inference.pixels import ReadSettings, ScenePixels, is_url
from d2tiny.inference.predictor import TiledPredictor
from d2tiny.inference.raster import open_pixels
from d2tiny.inference.scene import GeoReference, Scene
from d2tiny.inference.scores import Scores
from d2tiny.inference.task import SceneTask, UnitFound, area_in
from d2tiny.inference.tiles import TileGrid
from d2tiny.runtime.resize import Resize
from d2tiny.utils.errors import D2TinyError

if TYPE_CHECKING:
    from d2tiny.inference.area import Area

__all__ = [
    "Engine",
    "LocalEngine",
    "SceneHead",
    "Sink",
    "as_scene_error",
    "free_memory",
    "is_memory_error",
    "scene_errors",
]


@dataclass(frozen=True)
class SceneHead:
    """What has to be known of a scene before its tiles are looked at; the same in every process.

    Attributes:
        path: file or URL.
        file_size: (width, height) in px of the file.
        size: (width, height) in px as it is looked at.
        scale: (x, y), px of the file for each of these.
        tile: side of the tiles in px.
        overlap: of the tiles in px.
        geo: where the pixels of the file lie.
        time: when it was taken.
        chosen: bands, stretch, ...
        stamp: time of the last change and size of the file; zeros for a URL.
    """

    path: str
    file_size: tuple[int, int]
    size: tuple[int, int]
    scale: tuple[float, float]
    tile: int
    overlap: int
    geo: GeoReference | None
    time: str
    chosen: dict[str, Any]
    stamp: tuple[int, int]

    @classmethod
    def of(cls, path: str, pixels: ScenePixels, grid: TileGrid) -> SceneHead:
        """Return the head of a scene that is open."""
        state = None if is_url(path) else Path(path).stat()
        return cls(
            path,
            pixels.file_size,
            (pixels.width, pixels.height),
            pixels.scale,
            grid.tile,
            grid.overlap,
            pixels.geo,
            pixels.time,
            pixels.chosen,
            (state.st_mtime_ns, state.st_size) if state is not None else (0, 0),
        )

    @cached_property
    def grid(self) -> TileGrid:
        """The tiles."""
        return TileGrid(*self.size, self.tile, self.overlap)

    def stored(self) -> dict[str, Any]:
        """Return it as json knows it."""
        data: dict[str, Any] = json.loads(json.dumps(asdict(self)))
        return data

    @classmethod
    def from_stored(cls, data: dict[str, Any]) -> SceneHead:
        """Return what :meth:`stored` returned."""
        geo = data["geo"]
        pairs = {key: tuple(data[key]) for key in ("file_size", "size", "scale", "stamp")}
        return cls(**{**data, **pairs, "geo": geo and GeoReference(geo["crs"], tuple(geo["transform"]))})

    def same_content(self, other: SceneHead) -> bool:
        """Return whether this is of the same file; copies on other machines may have other times."""
        return replace(self, stamp=(0, self.stamp[1])) == replace(other, stamp=(0, other.stamp[1]))

    def scene(self, classes: Sequence[str], model: str, score: Scores) -> Scene:
        """Return the scene as results describe it, with the lowest scores of its objects."""
        # In an order that does not depend on whether the head comes from a journal.
        used = {**self.chosen, "tile": self.tile, "overlap": self.overlap, "score": score}
        settings = dict(sorted(used.items()))
        return Scene(self.path, *self.file_size, tuple(classes), self.geo, self.time, model, settings)


class Sink(Protocol):
    """What an engine tells of its work; scenes may overlap, units come in any order."""

    def begin(self, scene: int, head: SceneHead) -> Sequence[int]:
        """Return the units of a scene that are to be done."""
        ...

    def found(self, scene: int, unit: int, found: UnitFound) -> None:
        """Take what is in a unit."""
        ...

    def end(self, scene: int, pixels: ScenePixels | None) -> None:
        """All units of a scene were given; its pixels, where they are open here."""
        ...

    def fail(self, scene: int, error: BaseException) -> None:
        """Take why a scene cannot be done."""
        ...


class Engine(Protocol):
    """Finds the objects of scenes.

    Attributes:
        classes: K class names.
        merge_settings: constants of merging.
    """

    classes: Sequence[str]
    merge_settings: MergeSettings

    def use_overlap(self, overlap: int) -> None:
        """Take an automatic overlap that was found before, in px."""
        ...

    def run(self, scenes: Sequence[tuple[int, str]], sink: Sink) -> None:
        """Do scenes, given by number and path; tell the sink."""
        ...

    def close(self) -> None:
        """Free what is held."""
        ...


def scene_errors(*more: type[BaseException]) -> tuple[type[BaseException], ...]:
    """Return what one scene may fail with while the others are done all the same, and more errors."""
    return D2TinyError, ImportError, OSError, MemoryError, _gpu_memory_error(), *more


def as_scene_error(error: BaseException) -> BaseException | None:
    """Return an error that one scene may fail with as such a one, None if it is another."""
    if isinstance(error, scene_errors()):
        return error
    if isinstance(error, RuntimeError) and "memory" in str(error).lower():
        return MemoryError(str(error))  # PyTorch says so on processors that a tile does not fit
    return None


def is_memory_error(error: BaseException) -> bool:
    """Return whether an error says that the memory of this machine or of its GPU is too small."""
    return isinstance(error, MemoryError | _gpu_memory_error())


def free_memory() -> None:
    """Give memory of a GPU back that PyTorch keeps for later."""
    if "torch" in sys.modules:
        sys.modules["torch"].cuda.empty_cache()


def _gpu_memory_error() -> type[BaseException]:
    """Return PyTorch's error; where PyTorch is not imported, it cannot have failed."""
    torch = sys.modules.get("torch")
    error: type[BaseException] = MemoryError if torch is None else torch.cuda.OutOfMemoryError
    return error


class LocalEngine:
    """Works in this process."""

    def __init__(
        self,
        predictor: TiledPredictor,
        read: ReadSettings,
        aoi: str | Path | Area | None = None,
        scenes: Sequence[str] = (),
    ) -> None:
        """Combine a model and settings.

        Args:
            predictor: the model.
            read: how rasters are read.
            aoi: the area that is searched, or its file.
            scenes: all of the run; an automatic overlap is chosen in the first that needs tiles, so that it does not
                depend on what was done before.
        """
        self.predictor, self._read, self._aoi, self._scenes = predictor, read, aoi, scenes
        self.classes: Sequence[str] = predictor.classes
        self.merge_settings = predictor.merge_settings
        self._overlap: int | None = None

    def close(self) -> None:
        """Nothing is held between scenes."""

    def use_overlap(self, overlap: int) -> None:
        """Take an automatic overlap that was found before, in px."""
        self._overlap = overlap

    def run(self, scenes: Sequence[tuple[int, str]], sink: Sink) -> None:
        """Do scenes one after the other; the next tiles are read while the model works."""
        with self.predictor.autocast():
            for number, path in scenes:
                try:
                    self._run_scene(number, path, sink)
                except Exception as err:
                    error = as_scene_error(err)
                    if error is None:
                        raise
                    sink.fail(number, error)

    def _run_scene(self, number: int, path: str, sink: Sink) -> None:
        pixels = self.open(path)
        try:
            if self._overlap is None and self.needs_overlap(pixels):
                self._overlap = self.automatic_overlap(self._scenes)
            head = self.head(path, pixels, self._overlap)
            units = head.grid.units(self.predictor.settings.batch)
            todo = sink.begin(number, head)
            task = SceneTask(pixels, head.grid, area_in(pixels.geo, pixels.file_size, self._aoi))
            # Closed before the pixels, which its thread reads.
            with closing(self.predictor.found(task, [units[unit] for unit in todo])) as found:
                for unit, (_, objects) in zip(todo, found, strict=True):
                    sink.found(number, unit, objects)
            sink.end(number, pixels)
        finally:
            pixels.close()

    def open(self, path: str, known: Mapping[str, Any] | None = None) -> ScenePixels:
        """Open a scene; ``known``: bands and stretch that were chosen before, see :func:`open_pixels`."""
        return open_pixels(path, self._read, self.predictor.settings.tile, known)

    def needs_overlap(self, pixels: ScenePixels) -> bool:
        """Return whether the overlap of a scene's tiles is found by looking at some."""
        return self.predictor.settings.overlap == "auto" and not self.predictor.fits(pixels.width, pixels.height)

    def head(self, path: str, pixels: ScenePixels, automatic: int | None = None) -> SceneHead:
        """Return the head of a scene.

        Args:
            path: of the scene.
            pixels: of the scene.
            automatic: overlap that suits the run; None looks for one that suits the scene.
        """
        if automatic is not None and self.needs_overlap(pixels):
            grid = TileGrid(pixels.width, pixels.height, self.predictor.settings.tile, automatic)
        else:
            grid = self.predictor.grid(pixels)
        return SceneHead.of(path, pixels, grid)

    def automatic_overlap(self, paths: Sequence[str]) -> int | None:
        """Return the overlap that suits the first of some scenes that needs tiles; None if none does."""
        for path in paths:
            try:
                known = not is_url(path) and self._read.gsd is None and Path(path).suffix.lower() != ".vrt"
                looked_at = Resize(factor=self._read.resize or 1.0)
                if known and self.predictor.fits(*looked_at.size(*read_header(path).size)):
                    continue
                pixels = self.open(path)
            except scene_errors(ValueError):
                continue
            try:
                if not self.predictor.fits(pixels.width, pixels.height):
                    return self.predictor.overlap(pixels)
            except scene_errors():
                continue
            finally:
                pixels.close()
        return None
