"""Checks of atomic writing in folders that others can write to."""

from __future__ import annotations

import os
import stat

import pytest

from d2tiny.utils import files
from d2tiny.utils.errors import ConfigError, DatasetError
from d2tiny.utils.files import name_atomic, open_atomic, read_json, write_text


def test_a_link_at_a_name_that_can_be_foreseen_is_not_written_through(tmp_path):
    victim = tmp_path / "victim"
    victim.write_text("mine")
    for name in (f".o.json.{os.getpid()}", ".o.json"):
        (tmp_path / name).symlink_to(victim)
    write_text(tmp_path / "o.json", "new")
    assert (tmp_path / "o.json").read_text() == "new"
    assert victim.read_text() == "mine"


def test_even_a_guessed_name_is_not_written_through(tmp_path, monkeypatch):
    monkeypatch.setattr(files.secrets, "token_hex", lambda size: "guess")
    victim = tmp_path / "victim"
    victim.write_text("mine")
    (tmp_path / f".o.json.{os.getpid()}.guess").symlink_to(victim)
    with pytest.raises(FileExistsError):
        write_text(tmp_path / "o.json", "new")
    assert victim.read_text() == "mine"
    assert (tmp_path / f".o.json.{os.getpid()}.guess").is_symlink()  # not ours to remove


def test_a_link_under_the_name_itself_is_replaced(tmp_path):
    victim = tmp_path / "victim"
    victim.write_text("mine")
    (tmp_path / "o.json").symlink_to(victim)
    write_text(tmp_path / "o.json", "new")
    assert victim.read_text() == "mine"
    assert not (tmp_path / "o.json").is_symlink()


def test_two_writers_in_one_process_do_not_meet(tmp_path):
    with open_atomic(tmp_path / "a") as first, open_atomic(tmp_path / "a") as second:
        first.write(b"first")
        second.write(b"second")
    assert (tmp_path / "a").read_bytes() == b"first"  # the outer block ends last
    assert [f.name for f in tmp_path.iterdir()] == ["a"]


@pytest.mark.parametrize("name", ["a" * 255, "ü" * 127])
def test_the_longest_names_can_be_written(tmp_path, name):
    write_text(tmp_path / name, "x")
    assert [f.name for f in tmp_path.iterdir()] == [name]


def test_the_rights_are_those_of_any_new_file(tmp_path):
    (tmp_path / "plain").touch()
    write_text(tmp_path / "a", "x")
    assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == stat.S_IMODE((tmp_path / "plain").stat().st_mode)


def test_an_exception_leaves_the_old_file_alone(tmp_path):
    write_text(tmp_path / "a", "old")
    with pytest.raises(KeyboardInterrupt), open_atomic(tmp_path / "a") as file:
        file.write(b"half")
        raise KeyboardInterrupt
    assert [(f.name, f.read_text()) for f in tmp_path.iterdir()] == [("a", "old")]
    with pytest.raises(ConfigError, match="is a folder"):
        write_text(tmp_path, "x")


@pytest.mark.parametrize("name", ["x" * 300, "a\0b"])
def test_names_of_no_file_are_refused(tmp_path, name):
    with pytest.raises(DatasetError, match="cannot read this file"):
        read_json(tmp_path / name)


def test_a_library_writes_by_name_and_nothing_else_stays(tmp_path):
    with name_atomic(tmp_path / "a.gpkg") as name:
        assert name.name == "a.gpkg" and name.parent.parent == tmp_path
        name.write_text("new")
        name.with_name("a.gpkg-journal").write_text("of the library")
        assert not (tmp_path / "a.gpkg").exists()
    assert [f.name for f in tmp_path.iterdir()] == ["a.gpkg"]
    with pytest.raises(RuntimeError), name_atomic(tmp_path / "a.gpkg") as name:
        name.write_text("half")
        raise RuntimeError
    with pytest.raises(FileNotFoundError), name_atomic(tmp_path / "a.gpkg"):
        pass  # the library wrote nothing and said nothing
    assert [f.name for f in tmp_path.iterdir()] == ["a.gpkg"]
    assert (tmp_path / "a.gpkg").read_text() == "new"
