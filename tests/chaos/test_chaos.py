"""Kills at any moment leave nothing half-written, and the next run ends as if nothing had happened.

``make chaos`` kills a hundred times instead of ten; ``D2TINY_CHAOS_SEED`` draws other moments. A failure names the
kill.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from d2tiny.synthetic import write_dataset
from d2tiny.utils.checkpoint_files import read_checkpoint
from tests.helpers.chaos import (
    TEMPORARY,
    Kill,
    Reference,
    Task,
    content,
    finished_or_absent,
    run,
    same_bytes,
    strike,
    tiles_fit,
    undisturbed,
)
from tests.helpers.training import CONFIG, SMALL, losses

KILLS = int(os.environ.get("D2TINY_CHAOS", "10"))
SEED = int(os.environ.get("D2TINY_CHAOS_SEED", "0"))
CLASSES = ("ship", "vehicle")
_ARCHIVE = "previous_"

# --- inputs ------------------------------------------------------------------------------------------------------


def _image(path: Path, seed: int, version: int, side: int = 200) -> None:
    """Write noise; files of one version have one time, so that nothing depends on when a test runs."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng((seed, version)).integers(0, 255, (side, side, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    os.utime(path, (1e9 + version, 1e9 + version))


def coco(root: Path, version: int, images: int = 8, objects: int = 300) -> dict[str, Any]:
    """Write images and ``truth.json`` with objects at random; half of the images are the same in all versions."""
    rng = np.random.default_rng(version)
    annotations = []
    for number in range(1, images + 1):
        _image(root / "images" / f"{number}.png", number, version if number % 2 else 0)
        for x, y in rng.integers(0, 180, (objects, 2)).tolist():
            box = [x, y, *rng.integers(4, 20, 2).tolist()]
            annotations.append({"id": len(annotations) + 1, "image_id": number, "iscrowd": 0, "area": box[2] * box[3]})
            annotations[-1] |= {"category_id": 1 + x % 2, "bbox": box}
    data = {
        "images": [{"id": i, "file_name": f"{i}.png", "width": 200, "height": 200} for i in range(1, images + 1)],
        "categories": [{"id": i, "name": name} for i, name in enumerate(CLASSES, start=1)],
        "annotations": annotations,
    }
    (root / "truth.json").write_text(json.dumps(data))
    return data


def faulty(folder: Path, version: int) -> None:
    """Write a dataset with boxes without area, unknown classes and a missing image."""
    data = coco(folder / "in", version, objects=1500)
    for number, annotation in enumerate(data["annotations"]):
        if number % 7 == 0:
            annotation["bbox"][2] = 0
        elif number % 11 == 0:
            annotation["category_id"] = 99
    (folder / "in" / "truth.json").write_text(json.dumps(data))
    (folder / "in" / "images" / "3.png").unlink()


def detected(folder: Path, version: int) -> None:
    """Write a dataset, and predictions that are off by up to three px."""
    data, rng = coco(folder / "in", version), np.random.default_rng(7)
    found = [
        {"image_id": a["image_id"], "category_id": a["category_id"], "score": round(float(rng.random()), 3)}
        | {"bbox": [v + d for v, d in zip(a["bbox"], [*rng.integers(-3, 4, 2).tolist(), 0, 0], strict=True)]}
        for a in data["annotations"]
    ]
    (folder / "in" / "found.json").write_text(json.dumps(found))


def visdrone(folder: Path, version: int) -> None:
    """Write the files of a benchmark: many small texts."""
    rng = np.random.default_rng(version)
    texts = folder / "in" / "annotations"
    texts.mkdir(parents=True)
    _image(folder / "in" / "images" / "0.png", 0, 0, 64)
    for number in range(100):
        if number:
            shutil.copy2(folder / "in" / "images" / "0.png", folder / "in" / "images" / f"{number}.png")
        rows = rng.integers(1, 40, (120, 4)).tolist()
        (texts / f"{number}.txt").write_text("".join(f"{x},{y},{w},{h},1,4,0,0\n" for x, y, w, h in rows))


def scenes(folder: Path, _version: int) -> None:
    """Write drawn scenes that can be learned."""
    write_dataset(folder / "in" / "aerial", train=8, val=2, height=96, width=128, seed=5)


# --- trainings ---------------------------------------------------------------------------------------------------


def _parses(path: Path) -> None:
    """Read a file that a training leaves, by what it is; whatever goes wrong is raised."""
    if path.suffix == ".pth":
        read_checkpoint(path)
    elif path.name == "metrics.json":
        for line in path.read_text().splitlines():
            json.loads(line)
    elif path.suffix == ".json":
        json.loads(path.read_text())
    elif path.suffix == ".yaml":
        yaml.safe_load(path.read_text())
    elif path.name == "last_checkpoint":
        assert path.read_text() == "model_last.pth"


def training_whole(out: Path, reference: Reference) -> list[str]:
    """Return which files of a killed training cannot be read, or are not known."""
    known, problems = _names(reference.folder / "out"), []
    for path in out.rglob("*"):
        if path.is_dir() or TEMPORARY.fullmatch(path.name) or path.name == ".training.lock":
            continue
        try:
            _parses(path)
        except Exception as err:
            problems.append(f"{path.name} is half-written: {type(err).__name__}: {err}")
    return problems + [f"{name} is no file of a training" for name in _names(out) - known]


def _names(out: Path) -> set[str]:
    """Return the names of the files of a training; those of TensorBoard have the time in theirs."""
    names = {p.relative_to(out) for p in out.rglob("*") if p.is_file() and not TEMPORARY.fullmatch(p.name)}
    known = ("events.out", ".training.lock", "log.txt")
    return {str(n) for n in names if not n.name.startswith(known) and not n.parts[0].lstrip(".").startswith(_ARCHIVE)}


def _archived(out: Path, reference: Reference) -> list[str]:
    """Return what an earlier training lost when it was moved away, and when its half would have been resumed."""
    right = {p.name: p for p in (reference.old / "out").iterdir() if p.suffix in (".pth", ".json", ".yaml")}
    right["last_checkpoint"] = reference.old / "out" / "last_checkpoint"
    moved = [p for p in out.iterdir() if p.name.lstrip(".").startswith(_ARCHIVE)]
    return [
        f"{folder.name}/{name} is not that of the earlier training"
        for folder in moved
        for name, file in right.items()
        if not (folder / name).is_file() or (folder / name).read_bytes() != file.read_bytes()
    ]


def training_same(out: Path, reference: Reference) -> list[str]:
    """Return how a training that went on differs from the uninterrupted one: any bit of weights, losses, metrics."""
    right = reference.folder / "out"
    problems = [f"{name} is left over" for name in content(out) if name.startswith(".") or "/." in name]
    problems += _archived(out, reference)
    if _names(out) != _names(right):
        problems.append(f"files {sorted(_names(out) ^ _names(right))} are left over or missing")
    for name in ("model_final.pth", "model_best.pth", "model_last.pth"):
        states = [torch.load(folder / name, weights_only=True) for folder in (out, right)]
        for state in states:
            state.get("trainer", {}).pop("seconds", None)
        if not _equal(*states):
            problems.append(f"{name} differs from the uninterrupted training")
    if losses(out) != losses(right):
        problems.append("the losses differ")
    if len({json.dumps(json.loads((f / "result.json").read_text())["metrics"]) for f in (out, right)}) > 1:
        problems.append("the metrics differ")
    return problems


def _equal(a: object, b: object) -> bool:
    if isinstance(a, torch.Tensor):
        return isinstance(b, torch.Tensor) and torch.equal(a, b)
    if isinstance(a, dict):
        return isinstance(b, dict) and a.keys() == b.keys() and all(_equal(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return isinstance(b, list | tuple) and len(a) == len(b) and all(map(_equal, a, b))
    return a == b


def training_saved(out: Path) -> list[str]:
    """Return whether a training that was asked to stop lost an iteration."""
    done = losses(out) if (out / "metrics.json").is_file() else {}
    if not done:
        return []
    saved = torch.load(out / "model_last.pth", weights_only=True)["trainer"]["iteration"]
    return [] if saved == max(done) else [f"iteration {max(done)} was done, but {saved} is the last that is saved"]


# --- the table ---------------------------------------------------------------------------------------------------


def _light(command: str, prepare: Callable[[Path, int], None], whole: Any = finished_or_absent) -> Task:
    return Task(prepare, tuple(command.split()), whole, same_bytes)


def _training(*more: str) -> Task:
    command = ("train", "--config", CONFIG, "--output", "out", *more, *SMALL)
    command += ("train.max_iter=3", "train.checkpoint_period=1", "train.eval_period=2")
    return Task(scenes, command, training_whole, training_same, ("--resume",), training_saved, versions=1)


# Of ten kills, how many are of this command.
TASKS: dict[str, tuple[int, Task]] = {
    "convert": (1, _light("convert visdrone in --output out/instances.json", visdrone)),
    "tile": (
        2,
        _light(
            "tile in/truth.json --images in/images --output out --size 64 --overlap 16",
            lambda folder, version: coco(folder / "in", version) and None,
            tiles_fit,
        ),
    ),
    "check": (
        1,
        _light("check in/truth.json --images in/images --fix out/clean.json --json out/findings.json", faulty),
    ),
    "report": (
        2,
        _light("evaluate in/found.json in/truth.json --images in/images --report out", detected),
    ),
    "stats": (
        1,
        _light("stats in/truth.json --images in/images --output out --coverage=", detected),
    ),
    "train": (2, _training()),
    "two": (1, _training("--num-gpus", "2")),
}
SLOW = ("report", "stats", "train", "two")


def _kills() -> list[Any]:
    """Return the parameters of each kill; those of a command share a worker and its undisturbed run."""
    result = []
    for name, (share, _) in TASKS.items():
        marks = [pytest.mark.xdist_group(f"chaos-{name}"), *([pytest.mark.slow] if name in SLOW else [])]
        result += [pytest.param(name, i, id=f"{name}-{i}", marks=marks) for i in range(-(-KILLS * share // 10))]
    return result


@pytest.fixture(scope="module")
def references(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The undisturbed run of each command, when it is first asked for."""
    done: dict[str, Reference] = {}

    def get(name: str) -> Reference:
        if name not in done:
            done[name] = undisturbed(TASKS[name][1], tmp_path_factory.mktemp(name))
        return done[name]

    return get


@pytest.mark.parametrize(("name", "number"), _kills())
def test_a_kill_loses_nothing(references, tmp_path, name, number):
    reference = references(name)
    kill = Kill.draw(np.random.default_rng((SEED, list(TASKS).index(name), number)), reference)
    problems = strike(TASKS[name][1], reference, kill, tmp_path)
    assert not problems, f"{name}, {kill}:\n" + "\n".join(problems)


WRONG = {
    "half a tile": (lambda out: (out / "images" / "a.png").write_bytes(b"ti"), "a.png is half-written"),
    "a file of nobody": (lambda out: (out / "b.png").write_bytes(b""), "neither a result nor a temporary"),
    "a tile is gone": (lambda out: (out / "images" / "a.png").unlink(), "a.png is not the tile it describes"),
    "an earlier tile": (lambda out: (out / "images" / "a.png").write_bytes(b"old"), "not the tile it describes"),
}


def _fake(folder: Path, tile: bytes) -> Path:
    """Write what a tiling of one tile would have written."""
    (folder / "out" / "images").mkdir(parents=True)
    (folder / "out" / "images" / "a.png").write_bytes(tile)
    (folder / "out" / "instances.json").write_text(json.dumps({"images": [{"file_name": "a.png"}], "of": str(tile)}))
    return folder


@pytest.mark.parametrize("kind", WRONG)
def test_the_suite_sees_what_is_wrong(tmp_path, kind):
    reference = Reference(_fake(tmp_path / "new", b"tile"), 1.0, 0, 1, _fake(tmp_path / "old", b"old"))
    out = _fake(tmp_path / "killed", b"tile") / "out"
    (out / ".instances.json.123.0123456789abcdef").write_text("half")
    assert not tiles_fit(out, reference)
    assert same_bytes(out, reference) == [".instances.json.123.0123456789abcdef is left over"]
    change, words = WRONG[kind]
    change(out)
    assert words in "".join(tiles_fit(out, reference))
    assert len(same_bytes(out, reference)) == 2


@pytest.mark.xdist_group("chaos-tile")
def test_a_kill_strikes_where_it_was_told(references, tmp_path):
    """The second to last touch of a tiling is the opening of instances.json, the last its renaming."""
    reference, task = references("tile"), TASKS["tile"][1]
    shutil.copytree(reference.folder / "in", tmp_path / "in")
    outcome = run(task, tmp_path, (), Kill(signal.SIGKILL, event=reference.events - 1))
    assert outcome.code == -signal.SIGKILL
    found = content(tmp_path / "out")
    assert content(reference.folder / "out").keys() - found.keys() == {"instances.json"}
