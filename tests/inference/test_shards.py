"""Shards of a run, joined, are the run."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from d2tiny import model_zoo
from d2tiny.cli import main
from d2tiny.inference import ReadSettings, bulk, merge_shards, predict_scenes
from d2tiny.utils.errors import ConfigError
from tests.helpers.runs import SquarePredictor, content, settings, write_scenes


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Run over some of the scenes; returns the summary."""
    monkeypatch.setattr(bulk, "TiledPredictor", SquarePredictor)
    write_scenes(tmp_path / "in")
    cfg = model_zoo.get_cfg("quick/faster_rcnn_r18_fpn_rfla", "")

    def go(output: str, names: str = "*.*", **more):
        return predict_scenes(cfg, [str(tmp_path / "in" / names)], tmp_path / output, settings(**more))

    return go


def results(folder: Path) -> dict[str, bytes]:
    """Return what a user gets, without journals."""
    return {name: data for name, data in content(folder).items() if not name.startswith(".run")}


CASES = [("*.*", 2, {}), ("*.*", 5, {}), ("a.tif", 3, {}), ("[ab].tif", 4, {}), ("c.png", 2, {})]
CASES += [("*.*", 3, {"read": ReadSettings(resize=0.5)}), ("c.png", 2, {"read": ReadSettings(resize=2.0)})]


@pytest.mark.parametrize(("names", "count", "more"), CASES)
def test_shards_joined_are_the_run(tmp_path: Path, run, names: str, count: int, more: dict) -> None:
    """Fewer shards than scenes, as many, more: then each has tiles of each scene, some none; resized ones, too."""
    whole = run("whole", names, **more)
    tiles = [run("out", names, shard=(shard, count), **more).tiles for shard in (*range(2, count + 1), 1)]
    assert sum(tiles) == whole.tiles
    joined = merge_shards(tmp_path / "out", progress=False)
    assert (joined.scenes, joined.objects, joined.failed) == (whole.scenes, whole.objects, whole.failed)
    right, now = results(tmp_path / "whole"), results(tmp_path / "out")
    assert now.keys() == right.keys()
    assert [name for name in now if now[name] != right[name]] == []
    again = merge_shards(tmp_path / "out", progress=False)
    assert (again.scenes, again.objects) == (joined.scenes, joined.objects), "joining twice is joining"
    assert results(tmp_path / "out") == now


def test_large_scenes_are_shared_evenly(run) -> None:
    tiles = [run("out", "a.tif", shard=(shard, 4)).tiles for shard in range(1, 5)]
    assert max(tiles) - min(tiles) <= 1


def test_a_missing_shard(tmp_path: Path, run, capsys) -> None:
    run("out", shard=(1, 4))
    run("out", shard=(3, 4))
    assert main(["merge", str(tmp_path / "out")]) == 2
    assert "shards 2, 4 of 4 are missing" in capsys.readouterr().err
    assert not (tmp_path / "out" / "detections.json").exists()
    run("out", shard=(1, 2))
    with pytest.raises(ConfigError, match="shards of runs of 2 and 4 parts"):
        merge_shards(tmp_path / "out")
    with pytest.raises(ConfigError, match="no shards here"):
        merge_shards(tmp_path / "in")


def test_a_shard_that_is_not_finished(tmp_path: Path, run, monkeypatch) -> None:
    run("out", shard=(1, 2))
    with monkeypatch.context() as patch, pytest.raises(ZeroDivisionError):
        patch.setattr(SquarePredictor, "detect", lambda self, images, whole=False: 1 / 0)
        run("out", shard=(2, 2))
    with pytest.raises(ConfigError, match="shard 2 of 2 is not finished; run it with --resume"):
        merge_shards(tmp_path / "out")
    run("out", shard=(2, 2), resume=True)
    assert merge_shards(tmp_path / "out", progress=False).scenes == 4


def test_a_shard_of_another_run(tmp_path: Path, run) -> None:
    run("out", shard=(1, 2))
    run("out", shard=(2, 2), score=0.5)
    with pytest.raises(ConfigError, match=r"shard 2 has other settings than shard 1 \(score: 0\.3 there, 0\.5 now\)"):
        merge_shards(tmp_path / "out")


def test_shards_of_two_versions_of_a_scene(tmp_path: Path, run) -> None:
    """A scene that changed between the shards fails; nothing is made of halves of two."""
    run("out", "a.tif", shard=(1, 2))
    write_scenes(tmp_path / "in")
    shutil.copyfile(tmp_path / "in" / "b.tif", tmp_path / "in" / "a.tif")
    run("out", "a.tif", shard=(2, 2))
    summary = merge_shards(tmp_path / "out", progress=False)
    assert summary.scenes == 0
    assert ["shard 2 saw another file than shard 1" in text for text in summary.failed] == [True]
    assert not (tmp_path / "out" / "a.geojson").exists()


def test_a_scene_that_one_shard_could_not_read(tmp_path: Path, run) -> None:
    """It fails, as tiles of it are missing."""
    run("out", "a.tif", shard=(1, 2))
    whole = (tmp_path / "in" / "a.tif").read_bytes()
    (tmp_path / "in" / "a.tif").write_bytes(whole[:99])
    assert len(run("out", "a.tif", shard=(2, 2)).failed) == 1
    assert len(merge_shards(tmp_path / "out", progress=False).failed) == 1
    assert len(json.loads((tmp_path / "out" / "failed.json").read_text())) == 1
    (tmp_path / "in" / "a.tif").write_bytes(whole)
    run("out", "a.tif", shard=(2, 2), resume=True)
    assert merge_shards(tmp_path / "out", progress=False).scenes == 1


def test_shards_in_folders_of_their_own(tmp_path: Path, run) -> None:
    """As machines without a common disk write them; their folders are brought together."""
    whole = run("whole", "a.tif")
    for shard in (1, 2):
        run(f"out{shard}", "a.tif", shard=(shard, 2))
        shutil.copytree(tmp_path / f"out{shard}" / f".run-{shard}-of-2", tmp_path / "out" / f".run-{shard}-of-2")
    assert merge_shards(tmp_path / "out", progress=False).objects == whole.objects
    assert results(tmp_path / "out") == results(tmp_path / "whole")
