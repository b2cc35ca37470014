"""``d2tiny predict`` on a folder of scenes, killed with SIGKILL at any moment, once or more, and gone on with.

Ten kills, or as many as ``D2TINY_CHAOS`` tells. Each strikes when the command touches a file for the n-th time, a few
milliseconds later, or at any time of the run; a run is killed up to three times before it may end. Then every byte of
the output and of its journal is that of a run that nobody killed.
"""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from detectron2.config import instantiate

from d2tiny import model_zoo
from tests.helpers.chaos import TEMPORARY, Reference, content, same_bytes
from tests.helpers.made_rasters import deep, geotiff
from tests.helpers.runs import squares
from tests.helpers.zygote import Zygote

KILLS = int(os.environ.get("D2TINY_CHAOS", "10"))
SEED = int(os.environ.get("D2TINY_CHAOS_SEED", "0"))
CONFIG = "quick/faster_rcnn_r18_fpn_rfla"
COMMAND = (
    *("predict", "in/scenes", "--config", CONFIG, "--weights", "in/model.pth", "--device", "cpu", "--output", "out"),
    *("--tile", "96", "--score", "0.02", "--format", "gpkg,geojson", "--page"),
    "model.roi_heads.box_predictor.test_topk_per_image=20",
)


def write_inputs(folder: Path) -> None:
    """Write two maps that are cut, one of 16 bits, a third that is not, a file that cannot be read, and weights."""
    scenes = folder / "scenes"
    scenes.mkdir(parents=True)
    geotiff(scenes / "a.tif", squares(170, 230, 30), tiled=True, blockxsize=64, blockysize=64)
    geotiff(scenes / "b.tif", deep(squares(100, 180, 10, 1), 300, 9300), photometric="RGB")
    cv2.imwrite(str(scenes / "broken.tif"), np.zeros((9, 9, 3), np.uint8))
    os.truncate(scenes / "broken.tif", 100)
    geotiff(scenes / "c.tif", squares(60, 80, 5, 2))
    torch.manual_seed(0)
    torch.save({"model": instantiate(model_zoo.get_config(CONFIG).model).state_dict()}, folder / "model.pth")


@dataclass
class Runs:
    """The process that forks runs, and the run that nobody killed.

    Attributes:
        zygote: the process.
        folder: has ``in`` and ``out``.
        events: touches of files of that run.
        seconds: that it took.
        struck: kills that came before the end of a run.
    """

    zygote: Zygote
    folder: Path
    events: int
    seconds: float
    struck: int = field(default=0)

    @property
    def reference(self) -> Reference:
        """As the kill suite knows it."""
        return Reference(self.folder, self.seconds, 1, self.events, self.folder)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Runs]:
    root = tmp_path_factory.mktemp("scenes")
    for name in ("warm", "whole"):
        (root / name).mkdir()
    write_inputs(root / "whole" / "in")
    shutil.copytree(root / "whole" / "in", root / "warm" / "in")
    zygote = Zygote({"folder": str(root / "warm"), "arguments": COMMAND})
    try:
        answer = zygote.run({"folder": str(root / "whole"), "arguments": COMMAND})
        assert answer["code"] == 1, (root / "whole" / "text.log").read_text()  # one scene is broken
        assert answer["events"] > 40
        yield Runs(zygote, root / "whole", answer["events"], answer["seconds"])
    finally:
        zygote.close()


def whole(out: Path, reference: Reference) -> list[str]:
    """Return which files with a final name are not those of the run that nobody killed."""
    right = content(reference.folder / "out")
    found = {name: data for name, data in content(out).items() if not name.startswith(".run/")}
    strange = [name for name in found if name not in right and not any(map(TEMPORARY.fullmatch, Path(name).parts))]
    return [f"{name} is no result" for name in strange] + [
        f"{name} is half-written" for name, data in found.items() if name in right and data != right[name]
    ]


def strike(runs: Runs, folder: Path, rng: np.random.Generator, left: float, *, resume: bool) -> float:
    """Kill a run at some moment.

    Args:
        runs: that nobody killed.
        folder: of this run.
        rng: draws the moment.
        left: share of the run that is left.
        resume: it goes on.

    Returns:
        The share that is left then.
    """
    command = {"folder": str(folder), "arguments": (*COMMAND, *(["--resume"] if resume else []))}
    if rng.random() < 0.5:
        command |= {
            "event": int(rng.integers(1, max(2, round(left * runs.events)))),
            "delay": int(rng.choice([0, 0, 1, 3, 10])),
        }
    else:
        command |= {"seconds": max(0.001, float(rng.random()) * left * runs.seconds)}
    answer = runs.zygote.run(command)
    runs.struck += answer["code"] == -signal.SIGKILL
    # A run that goes on has less to do: it may end before the moment comes.
    assert answer["code"] in (-signal.SIGKILL, 1), (command, (folder / "text.log").read_text())
    assert not whole(folder / "out", runs.reference), command
    return max(0.1, left - answer["events"] / runs.events)


@pytest.mark.slow
@pytest.mark.xdist_group("chaos-scenes")
@pytest.mark.parametrize("number", range(-(-KILLS // 2)))
def test_kills_lose_nothing(tmp_path: Path, runs: Runs, number: int) -> None:
    """Two kills on average; one in six of these runs then starts anew instead of going on."""
    rng = np.random.default_rng((SEED, number))
    (tmp_path / "in").symlink_to(runs.folder / "in")
    left = 1.0
    for kill in range(1 + number % 3):
        left = strike(runs, tmp_path, rng, left, resume=kill > 0)
    anew = number % 6 == 5
    command = (*COMMAND, *([] if anew else ["--resume"]))
    answer = runs.zygote.run({"folder": str(tmp_path), "arguments": command})
    assert answer["code"] == 1, (tmp_path / "text.log").read_text()
    assert not same_bytes(tmp_path / "out", runs.reference)


@pytest.mark.slow
@pytest.mark.xdist_group("chaos-scenes")
def test_kills_struck(runs: Runs) -> None:
    """Kills came before the end of the run: how many depends on what else the machine does."""
    assert runs.struck >= max(1, KILLS // 5)
    print(f"{runs.struck} kills of runs that {runs.events} times touch a file")
