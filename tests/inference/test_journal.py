from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from d2tiny import model_zoo
from d2tiny.inference import OutputSettings, TileSettings, bulk, predict_scenes
from d2tiny.inference.journal import Journal, PartFile, read_part
from d2tiny.inference.task import UnitFound
from d2tiny.utils.errors import ConfigError
from tests.helpers.runs import SquarePredictor, content, settings, write_scenes

HEAD = {"path": "a.tif", "size": [3, 4]}
RUN = {"score": 0.3, "scenes": ["a", "b"], "mine": [0, 1], "classes": ["car"]}


def found(count: int, seed: int) -> UnitFound:
    rng = np.random.default_rng(seed)
    boxes, scores = rng.random((count, 4)).astype(np.float32), rng.random(count).astype(np.float32)
    return UnitFound(np.full(count, seed, np.int32), boxes, scores, np.ones(count, np.int32))


@pytest.fixture
def part(tmp_path: Path) -> Path:
    """A file with the units 2, 0 and 1, of 5, 0 and 3 objects."""
    file = PartFile(tmp_path / "0.tiles", HEAD)
    for unit, count in ((2, 5), (0, 0), (1, 3)):
        file.add(unit, found(count, unit))
    file.close()
    return tmp_path / "0.tiles"


def units(path: Path) -> set[int]:
    """Open a file again, as a run that goes on does."""
    file = PartFile(path, HEAD)
    file.close()
    return file.units


def test_a_part_returns_what_was_added_in_order(part: Path) -> None:
    read = dict(read_part([part]))
    assert list(read) == [0, 1, 2]
    for unit, count in ((0, 0), (1, 3), (2, 5)):
        for ours, theirs in zip(read[unit], found(count, unit), strict=True):
            np.testing.assert_array_equal(ours, theirs)
            assert ours.dtype == theirs.dtype


def test_every_cut_of_a_part_keeps_its_whole_records_only(part: Path) -> None:
    """Cut off at any byte: what is left is what was whole, and the file grows to the same bytes again."""
    whole = part.read_bytes()
    seen = set()
    for length in (*range(0, len(whole), 7), len(whole) - 1):
        part.write_bytes(whole[:length])
        left = units(part)
        assert left in (set(), {2}, {2, 0}), length
        seen.add(len(left))
        file = PartFile(part, HEAD)
        for unit, count in ((2, 5), (0, 0), (1, 3)):
            if unit not in left:
                file.add(unit, found(count, unit))
        file.close()
        assert part.read_bytes() == whole
    assert seen == {0, 1, 2}


def test_a_damaged_byte_of_a_part_is_seen(part: Path) -> None:
    whole = part.read_bytes()
    # In the payload of unit 2, the first, and of unit 1, the last.
    for place, left in ((-(3 * 28) - 16 - 16 - 5, set()), (-1, {2, 0})):
        part.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + (whole[place + 1 :] if place != -1 else b""))
        assert units(part) == left


def test_a_part_of_another_scene_is_started_anew(part: Path) -> None:
    file = PartFile(part, {**HEAD, "size": [3, 5]})
    file.close()
    assert not file.units
    assert not list(read_part([part]))


@pytest.mark.parametrize("tail", [b'{"scene": 1, "sta', b"\xff\xfe\n", b'{"scene": "b", "state": "done"}\n', b"[]\n"])
def test_half_a_line_of_a_journal_is_none(tmp_path: Path, tail: bytes) -> None:
    with Journal.open(tmp_path / ".run", RUN, resume=False) as journal:
        journal.note(scene=0, state="done", objects=3)
    with (tmp_path / ".run" / "journal.jsonl").open("ab") as file:
        file.write(tail)
    with Journal.open(tmp_path / ".run", RUN, resume=True) as journal:
        assert list(journal.done) == [0]
        assert not journal.finished
        journal.note(scene=1, state="failed", error="broken")
    assert Journal(tmp_path / ".run").finished
    with Journal.open(tmp_path / ".run", RUN, resume=True) as journal:
        assert not journal.failed, "it is tried again"


def test_other_settings_are_refused_with_the_difference(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with Journal.open(tmp_path / ".run", RUN, resume=False) as journal:
        journal.note(scene=0, state="done", objects=3)
    for resume in (True, False):
        with (
            pytest.raises(ConfigError, match=r"interrupted run of other settings \(score: 0\.3 there, 0\.5 now\)"),
            Journal.open(tmp_path / ".run", {**RUN, "score": 0.5}, resume=resume),
        ):
            pass
    with Journal.open(tmp_path / ".run", RUN, resume=True) as journal:
        journal.note(scene=1, state="done", objects=3)
    with Journal.open(tmp_path / ".run", {**RUN, "score": 0.5}, resume=False) as journal:
        assert not journal.done, "a run that has ended makes way for another"
    [told] = [record.getMessage() for record in caplog.records if "is replaced" in record.getMessage()]
    assert "(score: 0.3 there, 0.5 now): its detections.json is replaced" in told


# --- runs ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Run over scenes that are written once; returns the summary."""
    monkeypatch.setattr(bulk, "TiledPredictor", SquarePredictor)
    monkeypatch.setattr(SquarePredictor, "calls", 0)
    write_scenes(tmp_path / "in")
    cfg = model_zoo.get_cfg("quick/faster_rcnn_r18_fpn_rfla", "")
    return lambda output, **more: predict_scenes(cfg, [str(tmp_path / "in")], tmp_path / output, settings(**more))


def test_a_broken_scene_is_named_and_the_others_are_done(tmp_path: Path, run) -> None:
    summary = run("out")
    assert summary.scenes == 4
    assert summary.objects > 100
    [failed] = json.loads((tmp_path / "out" / "failed.json").read_text())
    assert failed["scene"] == str(tmp_path / "in" / "broken.png")
    assert "cannot read this image" in failed["error"]
    assert summary.failed == [failed["error"]]
    for name in ("a.geojson", "a.html", "a.jpg", "b.geojson", "c.jpg", "d.html", "detections.json"):
        assert (tmp_path / "out" / name).stat().st_size > 100, name


def test_a_scene_that_an_option_does_not_fit_fails_alone(tmp_path: Path, run) -> None:
    """Photographs have no coordinates."""
    summary = run("out", outputs=OutputSettings(("geojson",), False, False))
    assert summary.scenes == 2
    assert [text.count("no coordinate reference system") for text in summary.failed] == [0, 1, 1]


class Killed(BaseException):
    """Ends a run as a kill does, but that what is in memory is lost only."""


@pytest.mark.parametrize("tile", [1, 3, 9, 20, 23])
def test_an_interrupted_run_goes_on_to_the_same_bytes(tmp_path: Path, run, monkeypatch, tile: int) -> None:
    run("whole")
    calls, inner = SquarePredictor.calls, SquarePredictor.detect
    SquarePredictor.calls = 0

    def strike(self, images, *, whole=False):
        if SquarePredictor.calls >= tile:
            raise Killed
        return inner(self, images, whole=whole)

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(SquarePredictor, "detect", strike)
        run("out")
    run("out", resume=True)
    assert SquarePredictor.calls <= calls + 6, "looked at again: the tile in flight, those for the overlap"
    right, now = content(tmp_path / "whole"), content(tmp_path / "out")
    assert now.keys() == right.keys()
    assert [name for name in now if now[name] != right[name]] == []


def test_a_run_that_has_ended_has_nothing_to_resume(tmp_path: Path, run) -> None:
    (tmp_path / "in" / "broken.png").unlink()
    first = run("out")
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*") if path.is_file()}
    SquarePredictor.calls = 0
    again = run("out", resume=True)
    assert (SquarePredictor.calls, again.tiles) == (0, 0)
    assert (again.scenes, again.objects) == (first.scenes, first.objects)
    after = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*") if path.is_file()}
    assert {path.name for path in before if before[path] != after.get(path)} <= {"journal.jsonl", "complete"}
    assert before.keys() == after.keys()


def test_what_failed_is_tried_again(tmp_path: Path, run) -> None:
    """A scene that is mended later: the others are not looked at again, and all are in the json."""
    run("out")
    SquarePredictor.calls = 0
    (tmp_path / "in" / "broken.png").write_bytes((tmp_path / "in" / "c.png").read_bytes())
    summary = run("out", resume=True)
    assert (SquarePredictor.calls, summary.failed) == (1, [])
    assert not (tmp_path / "out" / "failed.json").exists()
    images = json.loads((tmp_path / "out" / "detections.json").read_text())["images"]
    assert [Path(image["file_name"]).name for image in images] == ["a.tif", "b.tif", "broken.png", "c.png", "d.png"]


@pytest.mark.parametrize("again", [{"score": 0.6}, {"tiles": TileSettings(160)}])
def test_a_run_with_other_settings_is_not_resumed(tmp_path: Path, run, again) -> None:
    run("out")
    before = content(tmp_path / "out")
    with pytest.raises(ConfigError, match="other settings"):
        run("out", resume=True, **again)
    assert content(tmp_path / "out") == before


def test_a_second_process_in_the_same_folder_is_refused(tmp_path: Path, run) -> None:
    folder = tmp_path / "out" / ".run"
    folder.mkdir(parents=True)
    code = (
        "import sys, pathlib; from d2tiny.utils.folders import lock_folder\n"
        "with lock_folder(pathlib.Path(sys.argv[1])): print('locked', flush=True); sys.stdin.read()"
    )
    with subprocess.Popen([sys.executable, "-c", code, str(folder)], stdin=-1, stdout=-1) as other:
        assert other.stdout is not None
        assert other.stdin is not None
        assert other.stdout.readline() == b"locked\n"
        with pytest.raises(ConfigError, match=rf"writes to this folder \(process {other.pid} .*another --output"):
            run("out")
        other.stdin.close()
    assert run("out").scenes == 4


def test_what_a_run_without_settings_left_is_never_taken_for_good(tmp_path: Path) -> None:
    """A process that was killed while it emptied the folder of another run: the settings are the last to go."""
    with Journal.open(tmp_path, RUN, resume=False) as journal:
        journal.note(scene=0, state="done", objects=3)
        journal.part(1).write_bytes(b"of another model")
    (tmp_path / "settings.json").unlink()
    for resume in (True, False):
        with Journal.open(tmp_path, {**RUN, "score": 0.5}, resume=resume) as journal:
            assert not journal.done and not journal.part(1).exists()
