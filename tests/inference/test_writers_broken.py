"""Nothing half-written has its name: exceptions, kills, full disks, input that is none; and memory is bounded."""

from __future__ import annotations

import signal
import subprocess
import sys
import textwrap

import numpy as np
import pytest

from d2tiny.inference.scene import GeoReference, SceneDetections
from d2tiny.inference.writers import FORMATS, MAP_FORMATS, open_coco, open_writer
from d2tiny.utils.errors import ConfigError, DatasetError
from tests.helpers import ROOT
from tests.helpers.scenes import CLASSES, UTM, found, many, scene

pytest.importorskip("pyogrio")

BOXES = [[10, 20, 30, 60], [100.25, 200.5, 103.75, 209.125]]


def run(code, *arguments):
    """Run Python code in a process of its own; return it when it has ended."""
    command = [sys.executable, "-c", textwrap.dedent(code), *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)


def names(folder):
    return sorted(file.name for file in folder.iterdir())


@pytest.mark.parametrize("name", FORMATS)
def test_an_exception_leaves_the_old_file_or_none(tmp_path, name):
    path = tmp_path / f"a{FORMATS[name]}"
    for old in (None, b"old"):
        if old:
            path.write_bytes(old)
        with pytest.raises(RuntimeError, match="in the middle"), open_writer(path, scene()) as writer:
            writer.write(many(100))
            raise RuntimeError("in the middle")
        assert names(tmp_path) == ([path.name] if old else [])
        assert not old or path.read_bytes() == old


@pytest.mark.parametrize(
    ("name", "when"),
    [(name, "between objects") for name in FORMATS] + [("gpkg", "before the name"), ("geojson", "before the name")],
)
def test_a_kill_leaves_nothing_of_that_name_and_the_next_run_cleans(tmp_path, name, when):
    code = """
        import os, signal, sys
        from pathlib import Path
        from d2tiny.inference.writers import open_writer
        from tests.helpers.scenes import many
        path, when = Path(sys.argv[1]), sys.argv[2]
        if when == "before the name":
            Path.replace = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
        with open_writer(path, many(1).scene) as writer:
            writer.write(many(70_000 if when == "between objects" else 1000))
            if when == "between objects":
                os.kill(os.getpid(), signal.SIGKILL)
    """
    path = tmp_path / f"a{FORMATS[name]}"
    assert run(code, path, when).returncode == -signal.SIGKILL
    left = names(tmp_path)
    assert left and path.name not in left and all(name.startswith(".") for name in left)
    again = run("import sys; from tests.helpers.scenes import many; many(1000).to_file(sys.argv[1])", path)
    assert again.returncode == 0, again.stderr
    assert names(tmp_path) == sorted([path.name, *(["a.qml"] if name in MAP_FORMATS else [])])
    many(1000).to_file(tmp_path / "other" / path.name)
    assert (tmp_path / "other" / path.name).read_bytes() == path.read_bytes()  # also in another process


@pytest.mark.parametrize("name", FORMATS)
def test_a_full_disk_leaves_nothing(tmp_path, name):
    many(5000).to_file(tmp_path / "whole" / f"a{FORMATS[name]}")
    size = (tmp_path / "whole" / f"a{FORMATS[name]}").stat().st_size
    code = """
        import resource, signal, sys
        from tests.helpers.scenes import many
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        for share in (0.01, 0.3, 0.6, 0.9, 0.97):
            resource.setrlimit(resource.RLIMIT_FSIZE, (int(int(sys.argv[2]) * share), resource.RLIM_INFINITY))
            try:
                many(5000).to_file(sys.argv[1])
            except OSError as err:
                print(f"told: {err}")
    """
    folder = tmp_path / "full"
    ended = run(code, folder / f"a{FORMATS[name]}", size)
    assert ended.stdout.count("told: ") == 5, ended.stdout + ended.stderr
    assert names(folder) == []


@pytest.mark.parametrize("name", MAP_FORMATS)
def test_a_raster_without_coordinates_is_sent_to_coco_and_csv(tmp_path, name):
    with pytest.raises(
        ConfigError, match=r"no coordinate reference system.*COCO \(\.json\) or CSV \(\.csv\).*gdal_edit"
    ):
        found(BOXES, None).to_file(tmp_path / f"a{FORMATS[name]}")
    assert names(tmp_path) == []


@pytest.mark.parametrize(
    ("file", "message"),
    [
        ("a.geojsn", r"no format has the suffix '.geojsn'. Did you mean '.geojson'"),
        ("a", "no format has the suffix ''"),
    ],
)
def test_an_unknown_suffix_is_refused(tmp_path, file, message):
    with pytest.raises(ConfigError, match=message):
        found(BOXES).to_file(tmp_path / file)


@pytest.mark.parametrize("name", FORMATS)
def test_a_folder_under_the_name_is_refused(tmp_path, name):
    path = tmp_path / f"a{FORMATS[name]}"
    path.mkdir()
    with pytest.raises(ConfigError, match="is a folder"):
        found(BOXES).to_file(path)
    assert names(tmp_path) == [path.name] and names(path) == []


def broken(**change):
    good = found(BOXES)
    values = {"scene": good.scene, "boxes": good.boxes, "scores": good.scores, "classes": good.classes, **change}
    return SceneDetections(**values)


@pytest.mark.parametrize(
    ("objects", "error", "message"),
    [
        (broken(boxes=np.array([[0, 0, 1, 1], [0, 0, np.inf, 1]])), DatasetError, "detection 1 is not finite"),
        (broken(scores=np.array([np.nan, 1], dtype=np.float32)), DatasetError, "detection 0 is not finite"),
        (broken(classes=np.array([0, 3])), DatasetError, "detection 1 has class 3, the scene names 3"),
        (broken(classes=np.array([-1, 0])), DatasetError, "detection 0 has class -1"),
        (broken(scores=np.zeros(3, dtype=np.float32)), DatasetError, "must have the shapes"),
        (broken(scene=scene(path="other.tif")), ConfigError, "objects are of other.tif"),
    ],
)
@pytest.mark.parametrize("name", FORMATS)
def test_broken_objects_are_refused(tmp_path, name, objects, error, message):
    with pytest.raises(error, match=message), open_writer(tmp_path / f"a{FORMATS[name]}", scene()) as writer:
        writer.write(found(BOXES))
        writer.write(objects)
    assert names(tmp_path) == []


def test_broken_objects_are_refused_in_a_file_of_many_scenes(tmp_path):
    with pytest.raises(DatasetError, match="class 3"), open_coco(tmp_path / "a.json", CLASSES) as writer:
        writer.write(broken(classes=np.array([0, 3])))
    assert names(tmp_path) == []


@pytest.mark.parametrize("name", ["geojson", "csv"])
def test_objects_off_the_earth_are_told(tmp_path, name):
    nowhere = GeoReference("EPSG:4326", (1.0, 0, 0, 0, -1.0, 500.0))
    with pytest.raises(DatasetError, match="no place on the ground"):
        found(BOXES, nowhere).to_file(tmp_path / f"a{FORMATS[name]}")
    assert names(tmp_path) == []


def test_any_file_name_can_be_written_about(tmp_path):
    """Quotes, percent signs, a line feed, and bytes that are no text."""
    odd = 'a"%s\n\udcff,<ü>.tif'
    objects = many(3, of=scene(UTM, odd))
    import geopandas
    import pandas

    for name in MAP_FORMATS:
        path = tmp_path / f"a{FORMATS[name]}"
        objects.to_file(path)
        frame = geopandas.read_parquet(path) if name == "parquet" else geopandas.read_file(path)
        assert set(frame["scene"]) == {'a"%s\n�,<ü>.tif'}
    objects.to_file(tmp_path / "a.csv")
    assert set(pandas.read_csv(tmp_path / "a.csv")["scene"]) == {'a"%s\n�,<ü>.tif'}


@pytest.mark.slow
@pytest.mark.parametrize("name", FORMATS)
def test_memory_does_not_grow_with_the_objects(tmp_path, name):
    """As text or Python objects they would take hundreds of MB; GDAL takes 100 MB to sort a FlatGeobuf."""
    code = """
        import sys
        from pathlib import Path
        from d2tiny.inference.writers import open_writer
        from tests.helpers.scenes import many, scene

        def peak():
            return int(next(x for x in open("/proc/self/status") if x.startswith("VmHWM")).split()[1]) / 1024

        path = Path(sys.argv[1])
        with open_writer(path.with_stem("warm"), scene()) as writer:  # libraries, and a block's arrays
            writer.write(many(70_000))
        before = peak()
        with open_writer(path, scene()) as writer:
            for seed in range(20):
                writer.write(many(10_000, seed))
        print(peak() - before)
    """
    ended = run(code, tmp_path / f"a{FORMATS[name]}")
    assert ended.returncode == 0, ended.stderr
    assert float(ended.stdout) < (150 if name == "fgb" else 40)
