"""The lock of a training's folder, and what interrupted writes left."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from d2tiny.utils import folders
from d2tiny.utils.errors import ConfigError
from d2tiny.utils.files import write_text

HOLDER = """
import sys, time
from pathlib import Path
from d2tiny.utils.folders import lock_folder
with lock_folder(Path(sys.argv[1])):
    print("locked", flush=True)
    time.sleep(60)
"""


def test_one_process_has_a_folder_and_a_dead_one_gives_it_up(tmp_path):
    holder = subprocess.Popen([sys.executable, "-c", HOLDER, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    try:
        assert holder.stdout.readline() == "locked\n"
        for use in (lambda: folders.refuse_locked(tmp_path), lambda: folders.lock_folder(tmp_path).__enter__()):
            with pytest.raises(ConfigError, match=rf"process {holder.pid} on .*, started \d{{4}}-") as caught:
                use()
            assert "choose another train.output_dir" in str(caught.value)
    finally:
        holder.kill()
        holder.wait()
    assert (tmp_path / ".training.lock").exists()
    with folders.lock_folder(tmp_path):
        assert str(os.getpid()) in (tmp_path / ".training.lock").read_text()
    assert not list(tmp_path.iterdir())
    folders.refuse_locked(tmp_path)


def test_leftovers_of_dead_processes_go(tmp_path):
    """A file goes if it is older than this process, unlocked, and its process is gone or younger than the file."""
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    long_ago, running, drawn = 1e9, os.getppid(), "0123456789abcdef"
    names = {
        f".model_last.pth.{dead.pid}": long_ago,
        f".config.yaml.{dead.pid}.{drawn}": long_ago,
        f".a.png.{running}.{drawn}": long_ago,  # its process started later: the number was used again
        f".kept.json.{running}.{drawn}": None,  # written while its process runs
        f".new.json.{dead.pid}.{drawn}": None,  # younger than this process
        f".locked.json.{dead.pid}.{drawn}": long_ago,  # of a process in another container
        f".bashrc.{dead.pid}": long_ago,  # of other programs
        f".Xauthority.{dead.pid}.tmp": long_ago,
        ".hidden": long_ago,
        "model.pth.123": long_ago,
    }
    for name, time in names.items():
        (tmp_path / name).write_text("half")
        if time:
            os.utime(tmp_path / name, (time, time))
    (tmp_path / f".link.99.{drawn}").symlink_to(tmp_path / "model.pth.123")
    left = {f".map.gpkg.{dead.pid}.{drawn}": long_ago, f".new.gpkg.{dead.pid}.{drawn}": None, ".mine.pth.123": long_ago}
    for name, time in left.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "map.gpkg").write_text("half")
        if time:
            os.utime(tmp_path / name, (time, time))
    with (tmp_path / f".locked.json.{dead.pid}.{drawn}").open("r+b") as file:
        folders.mark_written(file.fileno())
        removed = {path.name for path in folders.remove_leftovers(tmp_path)}
    assert removed == {*list(names)[:3], next(iter(left))}
    assert not (tmp_path / next(iter(left))).exists()
    assert folders.remove_leftovers(tmp_path / "nothing") == []


def test_the_first_write_into_a_folder_cleans_it(tmp_path):
    """Whatever writes there, also into folders below the one that was asked for."""
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    left = tmp_path / "images" / f".a.png.{dead.pid}.0123456789abcdef"
    left.parent.mkdir()
    left.write_text("half")
    os.utime(left, (1e9, 1e9))
    write_text(tmp_path / "images" / "b.txt", "whole")
    assert [path.name for path in left.parent.iterdir()] == ["b.txt"]
