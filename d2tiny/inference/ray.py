"""The tiles of many scenes on the processes of a Ray cluster; what is found is what one process would find.

Each process (one a GPU, or one a processor) builds the model once. The process that was started by the user opens no
tile: it hands out units of work, notes what comes back in the journal, and writes the files of scenes that are
complete while others are looked at. All nodes must reach the scenes by the same paths or URLs; weights, the area that
is searched and the names of classes are sent to them.
"""

from __future__ import annotations

import logging
import os
import signal
import socket
import tempfile
import threading
from collections import OrderedDict, deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from detectron2.config import CfgNode

from d2tiny.config.files import configs_root
from d2tiny.inference.actors import IN_FLIGHT, OPEN_SCENES, ActorPool, Job, Started
from d2tiny.inference.area import Area, read_area
from d2tiny.inference.engine import (
    LocalEngine,
    SceneHead,
    Sink,
    as_scene_error,
    free_memory,
    is_memory_error,
    scene_errors,
)
from d2tiny.inference.merge import MergeSettings
from d2tiny.inference.predictor import TiledPredictor
from d2tiny.inference.raster import log_choice
from d2tiny.inference.run import RunSettings, file_digest
from d2tiny.inference.task import SceneTask, UnitFound, area_in
from d2tiny.inference.torch_detector import dataset_classes
from d2tiny.utils.env import advise_on_bf16, require_extra
from d2tiny.utils.errors import ConfigError

__all__ = ["RayEngine"]

logger = logging.getLogger(__name__)

_SEARCHED = 64  # scenes that one call looks through for the first that needs tiles
_UNWRITTEN = 8  # scenes that may wait to be written
_OBJECT_STORE = 200 << 20  # bytes for the objects of a Ray that is started here


class _About(NamedTuple):
    """What a process says of its model."""

    classes: tuple[str, ...]
    merge: MergeSettings
    advice: str


class _Setup(NamedTuple):
    """What a process needs.

    Attributes:
        cfg: of the model.
        settings: of the run.
        area: that is searched.
        folder: that relative paths start at.
        digest: of the weights' file, which is sent to nodes that do not have it; None without a file.
        zoo: name of a config below the zoo's folder, which lies elsewhere on other nodes; empty for another file.
    """

    cfg: CfgNode
    settings: RunSettings
    area: Area | None
    folder: str
    digest: str | None
    zoo: str


class _Worker:
    """An actor: a model, and the scenes that it looks at."""

    def __init__(self, setup: _Setup) -> None:
        self._setup = setup
        self._engine: LocalEngine | None = None
        self._open: OrderedDict[str, tuple[SceneTask, list[range]]] = OrderedDict()
        # Two calls at a time: one reads while the model works for the other.
        self._reading, self._computing = threading.Lock(), threading.Lock()

    def build(self, weights: np.ndarray | None = None) -> _About | None:
        """Build the model; None asks for the content of the weights' file, which is not here."""
        with suppress(OSError):
            os.chdir(self._setup.folder)  # relative paths mean the same everywhere
        cfg, settings = self._setup.cfg.clone(), self._setup.settings
        if self._setup.zoo:
            cfg.D2TINY.LAZY_CONFIG = str(configs_root() / self._setup.zoo)
        if weights is None and self._setup.digest is not None and not self._has_weights():
            return None
        with tempfile.TemporaryDirectory(prefix="d2tiny-") as folder:
            if weights is not None:
                cfg.MODEL.WEIGHTS = str(Path(folder) / Path(cfg.MODEL.WEIGHTS).name)
                weights.tofile(cfg.MODEL.WEIGHTS)
            predictor = TiledPredictor(cfg, **settings.predictor_options())
        self._engine = LocalEngine(predictor, settings.read, self._setup.area)
        advice = advise_on_bf16(cfg.MODEL.DEVICE) if settings.bf16 else ""
        return _About(tuple(predictor.classes), predictor.merge_settings, advice)

    def _has_weights(self) -> bool:
        try:
            return file_digest(Path(self._setup.cfg.MODEL.WEIGHTS)) == self._setup.digest
        except ConfigError:
            return False

    def find_overlap(self, paths: Sequence[str]) -> int | None:
        """Return the overlap that suits the first of some scenes that needs tiles; None if none does."""
        assert self._engine is not None
        with self._reading, self._computing:
            return self._engine.automatic_overlap(paths)

    def open(self, path: str, asked: bool, overlap: int | None) -> Any:
        """Return (head, None), (head, what is in its only unit), None to ask for the overlap first, or an error."""
        return self._guarded(lambda: self._head(path, asked, overlap))

    def _head(self, path: str, asked: bool, overlap: int | None) -> tuple[SceneHead, UnitFound | None] | None:
        engine = self._engine
        assert engine is not None
        with self._reading:
            pixels = engine.open(path)
            try:
                looking = engine.needs_overlap(pixels) and overlap is None
                if looking and not asked:
                    return None
                with self._computing if looking else nullcontext():
                    head = engine.head(path, pixels, overlap)
                task = SceneTask(pixels, head.grid, area_in(head.geo, head.file_size, self._setup.area))
                units = head.grid.units(self._setup.settings.tiles.batch)
                windows = task.read(units[0]) if len(units) == 1 else None
            finally:
                pixels.close()
        return head, None if windows is None else self._compute(windows, task.whole)

    def find(self, head: SceneHead, unit: int) -> Any:
        """Return what is in a unit of a scene, or an error."""
        return self._guarded(lambda: self._find(head, unit))

    def _find(self, head: SceneHead, unit: int) -> UnitFound:
        with self._reading:
            task, units = self._task(head)
            windows = task.read(units[unit])
        return self._compute(windows, task.whole)

    def _compute(self, windows: Any, whole: bool) -> UnitFound:
        assert self._engine is not None
        with self._computing, self._engine.predictor.autocast():
            return self._engine.predictor.find(windows, whole)

    def _task(self, head: SceneHead) -> tuple[SceneTask, list[range]]:
        """Return a scene and its units; it is open, or opened as another process did."""
        scene = self._open.pop(head.path, None)
        if scene is None:
            while len(self._open) >= OPEN_SCENES:
                self._open.popitem(last=False)[1][0].pixels.close()
            assert self._engine is not None
            pixels = self._engine.open(head.path, head.chosen or None)
            task = SceneTask(pixels, head.grid, area_in(head.geo, head.file_size, self._setup.area))
            scene = task, head.grid.units(self._setup.settings.tiles.batch)
        self._open[head.path] = scene
        return scene

    def _guarded(self, work: Any) -> Any:
        try:
            return work()
        except Exception as err:
            error = as_scene_error(err)
            if error is None:
                raise
            if is_memory_error(error):
                free_memory()
            return error


class _Scene(NamedTuple):
    """A scene whose units are looked at."""

    head: SceneHead
    left: set[int]


class RayEngine:
    """Works on the processes of a Ray cluster."""

    def __init__(self, cfg: CfgNode, settings: RunSettings, scenes: Sequence[str] = ()) -> None:
        """Connect to a cluster, or start one on this machine, and build the model in a first process.

        Args:
            cfg: as from ``d2tiny.model_zoo.get_cfg``, with weights.
            settings: of the run; ``ray`` is ``auto`` (the cluster of ``RAY_ADDRESS``, or a new one here) or an address.
            scenes: all of the run, for an automatic overlap.

        Raises:
            ImportError: Ray is not installed.
            ConfigError: no cluster there, or none with room for a process.
            CheckpointError: weights that do not fit.
            DatasetError: the area that is searched cannot be read.
        """
        self._ray = require_extra("ray", "ray")
        self._settings, self._scenes = settings, scenes
        self._known = settings.tiles.overlap != "auto"  # whether there is an overlap for all scenes
        self._overlap: int | None = None
        self._open: dict[int, _Scene] = {}
        self._later: list[tuple[int, str]] = []  # scenes that wait for the overlap
        area = read_area(settings.aoi) if settings.aoi is not None else None
        self._mine = _connect(self._ray, settings.ray)
        try:
            self._gpu = _uses_gpus(self._ray, cfg.MODEL.DEVICE, settings.device)
            self._setup = self._ray.put(_setup(cfg, settings, area, self._gpu))
            self._weights_file = Path(cfg.MODEL.WEIGHTS)
            self._weights: Any = None
            self._about: _About | None = None
            self._pool = ActorPool(self._start, self._prepared, self._room)
            self._pool.warm()
        except BaseException:
            self.close()
            raise
        assert self._about is not None
        if self._about.advice:
            logger.warning("--bf16: %s", self._about.advice)
        self.classes: Sequence[str] = self._about.classes
        self.merge_settings = self._about.merge

    def close(self) -> None:
        """End the processes; the cluster too if it was started here."""
        if hasattr(self, "_pool"):
            self._pool.close()
        if self._mine:
            self._ray.shutdown()
            self._mine = False

    def run(self, scenes: Sequence[tuple[int, str]], sink: Sink) -> None:
        """Do scenes; units of several are looked at at the same time."""
        todo = deque(scenes)
        with _writer(sink) as end:
            try:
                while todo or self._pool.busy:
                    # As many as keep the processes busy: what waits here is small, and so is what is begun.
                    while todo and self._pool.waiting < 2 * self._pool.most:
                        self._submit_scene(*todo.popleft())
                    job, answer = self._pool.take()
                    self._handle(job, answer, sink, end)
            except self._ray.exceptions.RayError as err:
                text = str(err).strip().splitlines()
                raise ConfigError(
                    f"--ray: {text[0] if text else type(err).__name__}. What is done is kept: run again with --resume."
                ) from err

    def _submit_scene(self, number: int, path: str) -> None:
        self._pool.submit(Job("open", number, (path, self._known, self._overlap), path))

    def _handle(self, job: Job, answer: Any, sink: Sink, end: Callable[[int], None]) -> None:
        """Do what follows from an answer."""
        if job.method == "find_overlap":
            self._take_overlap(job, answer)
        elif isinstance(answer, BaseException):
            # An earlier unit may have failed the same scene.
            if job.method == "open" or self._open.pop(job.scene, None) is not None:
                self._pool.drop(job.scene)
                sink.fail(job.scene, answer)
        elif job.method == "find":
            if job.scene in self._open:
                self._take_unit(job.scene, job.unit, answer, sink, end)
        elif answer is None and self._known:  # it was asked before that
            self._submit_scene(job.scene, job.path)
        elif answer is None:
            self._later.append((job.scene, job.path))
            self._search_overlap(0)
        else:
            head, found = answer
            self._begin(job.scene, head, found, sink, end)

    def _begin(
        self, number: int, head: SceneHead, found: UnitFound | None, sink: Sink, end: Callable[[int], None]
    ) -> None:
        """Hand out the units of a scene."""
        log_choice(head.path, head.chosen, head.size)
        try:
            units = sink.begin(number, head)
        except scene_errors() as err:
            sink.fail(number, err)
            return
        self._open[number] = _Scene(head, set(units))
        if found is not None and 0 in units:
            self._take_unit(number, 0, found, sink, end)
        elif not units:
            self._open.pop(number)
            end(number)
        else:
            for unit in units:
                self._pool.submit(Job("find", number, (head, unit), head.path, unit))

    def _take_unit(self, number: int, unit: int, found: UnitFound, sink: Sink, end: Callable[[int], None]) -> None:
        sink.found(number, unit, found)
        left = self._open[number].left
        left.discard(unit)
        if not left:
            self._open.pop(number)
            end(number)

    def _search_overlap(self, first: int) -> None:
        """Look for the overlap in the scenes from one on, if that is not done already."""
        if first == 0 and len(self._later) > 1:
            return
        paths = tuple(self._scenes[first : first + _SEARCHED])
        self._pool.submit(Job("find_overlap", -1, (paths,), paths[0], first), soon=True)

    def _take_overlap(self, job: Job, answer: Any) -> None:
        if isinstance(answer, BaseException):
            raise answer
        following = job.unit + _SEARCHED
        if answer is None and following < len(self._scenes):
            self._search_overlap(following)
            return
        if answer is not None:
            logger.info("overlap: %d px.", answer)
        self._known, self._overlap = True, answer
        for number, path in self._later:
            self._submit_scene(number, path)
        self._later.clear()

    def use_overlap(self, overlap: int) -> None:
        """Take an automatic overlap that was found before, in px."""
        self._known, self._overlap = True, overlap

    def _room(self) -> int:
        return int(self._ray.cluster_resources().get("GPU" if self._gpu else "CPU", 0))

    def _start(self) -> Started:
        """Ask for another process."""
        options = {"num_cpus": 1, "num_gpus": int(self._gpu), "max_concurrency": IN_FLIGHT, "max_restarts": 0}
        actor = self._ray.remote(_Worker).options(**options, scheduling_strategy="SPREAD").remote(self._setup)
        return Started(actor, actor.build.remote())

    def _prepared(self, actor: Any, about: _About | None) -> Any:
        """Return None if a process can work; else give it the weights, and return the reference to its answer."""
        if about is not None:
            self._about = about
            return None
        if self._weights is None:
            self._weights = self._ray.put(np.fromfile(self._weights_file, np.uint8))
        return actor.build.remote(self._weights)


@contextmanager
def _writer(sink: Sink) -> Iterator[Callable[[int], None]]:
    """Yield a function that ends a scene in a thread, one after the other, so that units go on meanwhile."""
    waiting: deque[Future[None]] = deque()

    def end(number: int) -> None:
        waiting.append(pool.submit(sink.end, number, None))
        while len(waiting) > _UNWRITTEN or (waiting and waiting[0].done()):
            waiting.popleft().result()

    with ThreadPoolExecutor(1, thread_name_prefix="write") as pool:
        yield end
        while waiting:
            waiting.popleft().result()


def _setup(cfg: CfgNode, settings: RunSettings, area: Area | None, gpu: bool) -> _Setup:
    """Return what a process needs."""
    weights = Path(cfg.MODEL.WEIGHTS)
    digest = file_digest(weights) if weights.is_file() else None
    cfg = cfg.clone()
    cfg.MODEL.DEVICE = "cuda" if gpu else "cpu"
    if not cfg.D2TINY.CLASSES:  # data sets are known here only
        cfg.D2TINY.CLASSES = dataset_classes(cfg.DATASETS.TEST[0], cfg.MODEL.ROI_HEADS.NUM_CLASSES)
    config = Path(cfg.D2TINY.LAZY_CONFIG)
    zoo = str(config.relative_to(configs_root())) if config.is_relative_to(configs_root()) else ""
    return _Setup(cfg, settings, area, str(Path.cwd()), digest, zoo)


def _uses_gpus(ray: Any, configured: str, asked: str) -> bool:
    """Return whether processes work on GPUs; the machine of the user may have none.

    Raises:
        ConfigError: the cluster has not what was asked for.
    """
    resources = ray.cluster_resources()
    gpu = bool(resources.get("GPU", 0)) and (configured.startswith("cuda") or asked == "auto")
    if configured.startswith("cuda") and not gpu:
        raise ConfigError("--ray: no node of the cluster has a GPU; give --device cpu.")
    if resources.get("CPU", 0) < 1:
        raise ConfigError("--ray: the cluster has no processor for a process (ray status shows what it has).")
    return gpu


def _connect(ray: Any, address: str) -> bool:
    """Connect to a cluster, or start one here; return whether this process was not connected before.

    Raises:
        ConfigError: there is no cluster.
    """
    if ray.is_initialized():
        return False
    # No statistics to the makers of Ray; no warning about GPUs that a process without one would not see.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    address = (os.environ.get("RAY_ADDRESS") or "local") if address == "auto" else address
    if address == "local":
        os.environ.setdefault("RAY_worker_niceness", "0")  # they do the work, and nothing else here does
    else:
        _require_reachable(address)
    options: dict[str, Any] = {"include_dashboard": False, "object_store_memory": _OBJECT_STORE}
    before = signal.getsignal(signal.SIGTERM)
    try:
        ray.init(
            address=address,
            log_to_driver=False,
            logging_level=logging.ERROR,
            **(options if address == "local" else {}),
        )
    except (ConnectionError, RuntimeError, ValueError) as err:
        raise ConfigError(f"--ray {address}: no cluster can be reached there ({err}); `ray start` starts one.") from err
    finally:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, before)  # Ray takes it for itself
    return True


def _require_reachable(address: str) -> None:
    """Raise a ConfigError if nothing listens at an address: Ray itself would wait for minutes."""
    host, colon, port = address.removeprefix("ray://").rpartition(":")
    if not colon or not port.isdigit():
        raise ConfigError(f"--ray {address}: give auto, or HOST:PORT of the head of a cluster, such as 10.0.0.1:6379.")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=10).close()
    except (OSError, OverflowError) as err:
        raise ConfigError(f"--ray {address}: no cluster can be reached there ({err}); `ray start` starts one.") from err
