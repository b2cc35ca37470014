"""One run over scenes: its settings, what it notes in the journal, what it writes."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tqdm import tqdm

import d2tiny
from d2tiny.data.loading.stretch import make_stretch
from d2tiny.inference.engine import Engine, SceneHead, free_memory, is_memory_error, scene_errors
from d2tiny.inference.journal import Journal, PartFile, read_part
from d2tiny.inference.merge import MergeSettings, SeamMerger, Views
from d2tiny.inference.outputs import OutputSettings, draw_outputs, write_maps
from d2tiny.inference.pixels import ReadSettings, ScenePixels
from d2tiny.inference.predictor import TileSettings
from d2tiny.inference.raster import open_pixels
from d2tiny.inference.scene import SceneDetections
from d2tiny.inference.scores import USUAL_SCORE, Scores, plain_scores
from d2tiny.inference.task import UnitFound, area_in, in_file
from d2tiny.inference.writers import FORMATS
from d2tiny.inference.writers.table import check
from d2tiny.inference.writers.writer import check_writable
from d2tiny.runtime.files import files_of
from d2tiny.utils.download import sha256_of
from d2tiny.utils.errors import ConfigError, DatasetError

if TYPE_CHECKING:
    from detectron2.config import CfgNode

    from d2tiny.runtime import ExportedModel

__all__ = [
    "Finisher",
    "RunSettings",
    "RunSummary",
    "SceneRun",
    "config_record",
    "export_record",
    "failure_text",
    "file_digest",
    "merge_scene",
    "run_record",
]


@dataclass(frozen=True)
class RunSettings:
    """Settings of a run.

    Attributes:
        tiles: how scenes are cut.
        read: how rasters are read.
        outputs: what is written.
        score: lowest score that is written, in [0, 1], or one for each class.
        bf16: compute in bfloat16.
        tta: look at mirror images too.
        aoi: file with the area that is searched.
        resume: go on with what an interrupted run has done.
        shard: (number from 1, count): do this part of the scenes only; ``merge_shards`` joins them.
        ray: ``auto``, or address of a Ray cluster; empty for this process alone.
        device: ``auto`` lets the processes of a Ray cluster work on its GPUs though this machine has none.
        model: name of the model, for the results.
        progress: show a bar.
    """

    tiles: TileSettings = field(default_factory=TileSettings)
    read: ReadSettings = field(default_factory=ReadSettings)
    outputs: OutputSettings = field(default_factory=OutputSettings)
    score: Scores = USUAL_SCORE
    bf16: bool = False
    tta: bool = False
    aoi: Path | None = None
    resume: bool = False
    shard: tuple[int, int] | None = None
    ray: str = ""
    device: str = "auto"
    model: str = ""
    progress: bool = True

    def __post_init__(self) -> None:
        object.__setattr__(self, "score", plain_scores(self.score))
        if self.shard is not None and not 1 <= self.shard[0] <= self.shard[1]:
            raise ConfigError(f"--shard {self.shard[0]}/{self.shard[1]}: the first number is from 1 to the second.")

    def predictor_options(self) -> dict[str, Any]:
        """Return the options of a ``TiledPredictor``."""
        return {**asdict(self.tiles), "score": self.score, "bf16": self.bf16, "tta": self.tta}


@dataclass
class RunSummary:
    """What a run did.

    Attributes:
        scenes: number of scenes that are done, now or before.
        tiles: number of tiles that were looked at now.
        objects: in the scenes that are done.
        seconds: that it took.
        failed: a message for each scene that could not be read, predicted or written.
    """

    scenes: int = 0
    tiles: int = 0
    objects: int = 0
    seconds: float = 0.0
    failed: list[str] = field(default_factory=list)


def config_record(cfg: CfgNode) -> dict[str, str]:
    """Return what tells a config and its weights from others."""
    weights = Path(cfg.MODEL.WEIGHTS) if cfg.MODEL.WEIGHTS else None
    plain = cfg.clone()
    plain.MODEL.WEIGHTS = plain.OUTPUT_DIR = plain.MODEL.DEVICE = ""
    text = plain.dump()
    if cfg.D2TINY.LAZY_CONFIG:  # what the file of that name says
        text += _file_content(cfg.D2TINY.LAZY_CONFIG, cfg.D2TINY.LAZY_OVERRIDES)
    return {
        "config": hashlib.sha256(text.encode()).hexdigest()[:16],
        "weights": file_digest(weights) if weights is not None and weights.exists() else str(cfg.MODEL.WEIGHTS),
    }


def _file_content(name: str, overrides: Sequence[str]) -> str:
    """Return what a lazy config comes to, with the defaults that it relies on."""
    from d2tiny.config import config_yaml, load_config  # Detectron2, which exported models run without
    from d2tiny.config.files import find_config

    try:
        return config_yaml(load_config(name, overrides), defaults=True)
    except ConfigError:  # a config in Python may hold what YAML cannot
        return find_config(name).path.read_text(encoding="utf-8")


def export_record(model: ExportedModel) -> dict[str, str]:
    """Return what tells an exported model, and the library that runs it, from others."""
    about = f"{model.backend} {model.metadata.to_json()}"
    return {
        "config": hashlib.sha256(about.encode()).hexdigest()[:16],
        "weights": "-".join(file_digest(path) for path in files_of(model.path)),
    }


def _record_of(read: ReadSettings) -> dict[str, Any]:
    """Return how rasters are read, without what is not used and earlier versions did not know."""
    record = {**asdict(read), "stretch": str(make_stretch(read.stretch) or "")}
    if read.resize is None:
        del record["resize"]
    return record


def run_record(model: Mapping[str, str], scenes: list[str], settings: RunSettings, engine: Engine) -> dict[str, Any]:
    """Return what must be equal for a run to be resumed, or shards to be joined; ``mine`` are the scenes of a shard.

    Args:
        model: of :func:`config_record` or :func:`export_record`.
        scenes: all scenes.
        settings: of the run.
        engine: that works.
    """
    numbers = range(len(scenes))
    shard = settings.shard
    return {
        "d2tiny": d2tiny.__version__,
        "model": settings.model,
        **model,
        "tiles": asdict(settings.tiles),
        "read": _record_of(settings.read),
        "outputs": asdict(settings.outputs),
        "score": settings.score,
        "bf16": settings.bf16,
        "tta": settings.tta,
        "aoi": [str(settings.aoi), file_digest(settings.aoi)] if settings.aoi is not None else None,
        "merge": asdict(engine.merge_settings),
        "classes": list(engine.classes),
        "scenes": scenes,
        "shards": shard[1] if shard else 1,
        # A scene is a shard's own, or where there are fewer scenes than shards, all have tiles of each.
        "mine": list(numbers) if shard is None or len(scenes) < shard[1] else list(numbers)[shard[0] - 1 :: shard[1]],
    }


def file_digest(path: Path) -> str:
    """Return a digest of a file's bytes.

    Raises:
        ConfigError: it cannot be read.
    """
    try:
        return sha256_of(path)[:16]
    except OSError as err:
        raise ConfigError(f"{path}: {err.strerror or err}.") from err


class Finisher:
    """Merges what was found in the tiles of scenes, and writes their files."""

    def __init__(
        self,
        journal: Journal,
        settings: RunSettings,
        targets: Sequence[Path],
        classes: Sequence[str],
        merge_settings: MergeSettings,
    ) -> None:
        """Combine what all scenes share.

        Args:
            journal: that notes what is done.
            settings: of the run.
            targets: path without suffix of what each scene leaves.
            classes: K class names.
            merge_settings: constants of merging.
        """
        self._journal, self._settings, self._targets = journal, settings, targets
        self._classes, self._merge_settings = tuple(classes), merge_settings

    def check_formats(self, head: SceneHead) -> None:
        """Raise if a map of a scene cannot be written.

        Raises:
            ConfigError: the scene has no coordinates.
        """
        scene = head.scene(self._classes, self._settings.model, self._settings.score)
        for name in self._settings.outputs.of_scene(head.geo is not None):
            check_writable(Path(f"x{FORMATS[name]}"), scene)

    def finish(self, scene: int, head: SceneHead, parts: Sequence[Path], pixels: ScenePixels | None) -> None:
        """Finish a scene and note that it is done.

        Args:
            scene: its number.
            head: what is known of it.
            parts: files of what was found in its tiles; removed.
            pixels: where they are open; otherwise they are opened where a picture or a page needs them.

        Raises:
            DatasetError: its file is damaged or has changed.
            OSError: a file cannot be written.
        """
        settings, outputs = self._settings, self._settings.outputs
        views = merge_scene(head, parts, settings.tiles.batch, self._merge_settings, settings.aoi)
        found = SceneDetections(head.scene(self._classes, settings.model, settings.score), *views)
        check(found)
        page = outputs.page
        if page is None:
            page = len(self._targets) == 1 and len(head.grid) > 1
        write_maps(self._targets[scene], found, outputs)
        if page or outputs.picture:
            opened = pixels or open_pixels(head.path, settings.read, settings.tiles.tile, head.chosen or None)
            try:
                draw_outputs(self._targets[scene], found, opened, outputs, page=page)
            finally:
                if pixels is None:
                    opened.close()
        self._journal.keep(scene, views)
        self._journal.note(scene=scene, state="done", head=head.stored(), objects=len(found))
        for path in parts:
            path.unlink(missing_ok=True)


class SceneRun:
    """The sink of a run: parts of scenes into the journal, scenes that are complete into files."""

    def __init__(
        self, journal: Journal, scenes: Sequence[str], targets: Sequence[Path], engine: Engine, settings: RunSettings
    ) -> None:
        """Start.

        Args:
            journal: of the run.
            scenes: all scenes.
            targets: path without suffix of what each leaves.
            engine: that works.
            settings: of the run.
        """
        self._journal, self._scenes, self._settings = journal, scenes, settings
        self._finisher = Finisher(journal, settings, targets, engine.classes, engine.merge_settings)
        self.summary = RunSummary()
        self._parts: dict[int, tuple[SceneHead, PartFile, list[range]]] = {}
        self._objects = 0
        if settings.tiles.overlap == "auto" and journal.overlap is not None:
            engine.use_overlap(journal.overlap)
        todo = [n for n in journal.settings["mine"] if n not in journal.done]
        self._bar = tqdm(total=len(todo), desc="predict", unit="tile", disable=not settings.progress)

    @property
    def split(self) -> bool:
        """Whether this shard has tiles of each scene rather than scenes."""
        return self._settings.shard is not None and len(self._scenes) < self._settings.shard[1]

    def begin(self, scene: int, head: SceneHead) -> Sequence[int]:
        """Open the part of a scene; return the units that are missing in it."""
        if self._settings.tiles.overlap == "auto" and len(head.grid) > 1 and self._journal.overlap is None:
            self._journal.overlap = head.overlap
        units = head.grid.units(self._settings.tiles.batch)
        self._finisher.check_formats(head)  # before hours of work
        part = PartFile(self._journal.part(scene), head.stored())
        self._parts[scene] = head, part, units
        mine = list(range(len(units)))
        if self.split:
            assert self._settings.shard is not None
            number, shards = self._settings.shard
            mine = [unit for unit in mine if unit * shards // len(units) == number - 1]
        todo = [unit for unit in mine if unit not in part.units]
        self._bar.total += sum(len(units[unit]) for unit in todo) - 1
        return todo

    def found(self, scene: int, unit: int, found: UnitFound) -> None:
        """Append what is in a unit to the journal."""
        _, part, units = self._parts[scene]
        part.add(unit, found)
        tiles = len(units[unit])
        self.summary.tiles += tiles
        self._objects += len(found.scores)
        self._bar.set_postfix_str(f"{self._objects} in tiles", refresh=False)
        self._bar.update(tiles)

    def end(self, scene: int, pixels: ScenePixels | None) -> None:
        """Merge and write a scene whose units are all there."""
        head, part, _ = self._parts.pop(scene)
        part.close()
        if self.split:
            self._journal.note(scene=scene, state="done", head=head.stored(), split=True)
            return
        try:
            self._finisher.finish(scene, head, [self._journal.part(scene)], pixels)
        except scene_errors() as err:
            self.fail(scene, err)

    def fail(self, scene: int, error: BaseException) -> None:
        """Note why a scene cannot be done."""
        if scene in self._parts:
            self._parts.pop(scene)[1].close()
        self._journal.note(scene=scene, state="failed", error=failure_text(self._scenes[scene], error))

    def close(self) -> None:
        """Close what is open."""
        for _, part, _ in self._parts.values():
            part.close()
        self._parts.clear()
        self._bar.close()


def merge_scene(
    head: SceneHead, paths: Sequence[Path], batch: int, settings: MergeSettings, aoi: Path | None = None
) -> Views:
    """Return the objects of a scene in px of the file.

    Args:
        head: of the scene.
        paths: files of what was found in its tiles.
        batch: tiles of a unit.
        settings: constants of merging.
        aoi: file with the area that is searched.

    Raises:
        DatasetError: tiles are missing.
    """
    merger, parts, units = SeamMerger(head.grid, settings), [Views.empty()], head.grid.units(batch)
    for unit, found in read_part(paths):
        for tile in units[unit]:
            parts += merger.add(tile, *found.of_tile(tile))
    if not merger.complete:
        raise DatasetError(f"{head.path}: some of its tiles were not looked at. Run it, or its shards, with --resume.")
    return in_file(Views.joined(parts), head.scale, area_in(head.geo, head.file_size, aoi))


def failure_text(path: str, error: BaseException) -> str:
    """Return what is wrong with a scene, and what to do about it."""
    if is_memory_error(error):
        free_memory()
        reason = str(error).splitlines()[0] if str(error) else "MemoryError"
        return f"{path}: this image does not fit into memory ({reason}). Try a smaller --tile or --resize."
    if isinstance(error, OSError):
        what = "read" if error.filename == path else "write"
        return f"{error.filename or path}: cannot {what} this: {error.strerror or error}"
    return str(error)
