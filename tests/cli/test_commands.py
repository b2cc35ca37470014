"""The commands that are not about data, and what all have in common."""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys

import pytest
import yaml

import d2tiny
from d2tiny.analysis.zoo import read_rows
from d2tiny.cli import COMMANDS, build_parser, command_parser, common
from d2tiny.cli.convert import FORMATS
from d2tiny.cli.predict import split_overrides
from d2tiny.cli.train import all_overrides, net_parser
from d2tiny.config import load_config
from d2tiny.config.files import config_names, config_title
from d2tiny.data.tools import converters
from d2tiny.data.tools.tiling import TileSettings
from d2tiny.evaluation.protocols import PROTOCOLS
from tests.helpers import ROOT
from tests.helpers.cli import run


def test_choices_and_defaults_of_options_are_those_of_the_library():
    """The parsers repeat them, because importing the library for a help text would take seconds."""
    assert set(common.PROTOCOLS) == set(PROTOCOLS)
    assert {name: entry.help for name, entry in converters.FORMATS.items()} == FORMATS
    args = command_parser("tile").parse_args(["a.json", "--images", "i", "-o", "o"])
    given = TileSettings(args.size, args.overlap, args.keep, args.cut, args.empty, args.suffix)
    assert given == TileSettings()


def test_options_of_one_name_look_the_same_everywhere():
    """Short names, type and number of values; `--config` and others may be optional in some commands."""
    seen: dict[str, tuple[object, ...]] = {}
    for name in COMMANDS:
        for action in command_parser(name)._actions:
            for option in action.option_strings:
                if option in ("--weights", "--config", "--output", "--images", "--score", "--device", "--register"):
                    kind = (tuple(action.option_strings), action.type, action.nargs)
                    assert seen.setdefault(option, kind) == kind, (name, option)
    assert len(seen) == 7


def test_version_and_module(capsys):
    assert run("--version") == 0
    assert capsys.readouterr().out == f"d2tiny {d2tiny.__version__}\n"
    result = subprocess.run([sys.executable, "-m", "d2tiny", "zoo", "quick/yolox_s"], capture_output=True, text=True)
    assert result.returncode == 0
    assert "quick/yolox_s" in result.stdout


@pytest.mark.parametrize("shell", ["bash", "zsh", "tcsh"])
def test_completion_scripts_know_commands_and_options(shell, capsys):
    assert run(f"--print-completion {shell}") == 0
    script = capsys.readouterr().out
    assert all(name in script for name in COMMANDS)
    assert "eval-only" in script
    if shell == "bash" and shutil.which("bash"):
        assert subprocess.run(["bash", "-n"], input=script, text=True).returncode == 0


def test_the_full_parser_reads_what_the_commands_read():
    words = ["tile", "a.json", "--images", "i", "-o", "o", "--size", "64"]
    full = vars(build_parser(full=True).parse_args(words))
    assert full.pop("command") == "tile"
    assert full == vars(command_parser("tile").parse_args(words[1:]))


def test_a_reader_that_leaves_is_no_error():
    """As `d2tiny zoo | head` does; the other end of the pipe is closed before anything is written."""
    read, write = os.pipe()
    os.close(read)
    result = subprocess.run([sys.executable, "-m", "d2tiny", "zoo"], stdout=write, stderr=subprocess.PIPE, text=True)
    os.close(write)
    assert (result.returncode, result.stderr) == (0, "")


# --- zoo and config ----------------------------------------------------------------------------------------------


def test_zoo_lists_names_costs_and_titles(capsys):
    assert run("zoo --all") == 0
    text = capsys.readouterr().out
    assert all(name in text for name in config_names())
    assert all(config_title(name) for name in config_names())
    assert run("zoo quick/yolov5_s") == 0
    row, _, weights = capsys.readouterr().out.splitlines()[2:]
    assert weights.startswith("Published weights (colour, colour_x2, thermal): d2tiny zoo --published")
    name, params, gmac, title = row.split(maxsplit=3)
    assert (name, title) == ("quick/yolov5_s", config_title("quick/yolov5_s"))
    assert float(params) > 5
    assert float(gmac) > 5


def test_zoo_shows_the_rows_of_the_page_in_its_order(capsys):
    """What nobody has measured is folded, as on the page."""
    assert run("zoo") == 0
    *rows, _, last, _, _ = capsys.readouterr().out.splitlines()[2:]
    page = re.findall(r"^\| \[([\w/]+)\]", (ROOT / "MODEL_ZOO.md").read_text().split("## Without")[0], re.MULTILINE)
    assert [row.split()[0] for row in rows] == page
    assert f"{len(config_names()) - len(set(page))} configs without figures are left out" in last
    measured = next(row for row in read_rows() if row.name == "hituav/faster_rcnn_lite0_fpn_rfla")
    (row,) = (row for row in rows if row.startswith(f"{measured.name} "))
    assert measured.measured_text("AP") in row
    assert next(row for row in rows if row.startswith("aitod/faster_rcnn_r50_fpn_rfla_1x ")).count("–") == 2


def test_zoo_takes_globs_and_parts_of_names(capsys):
    for pattern in ("quick/*sarl*", "r18_sarl"):
        assert run(f"zoo {pattern}") == 0
        *rows, _, _ = capsys.readouterr().out.splitlines()[2:]
        assert rows
        assert all("sarl" in row for row in rows)


@pytest.mark.parametrize(
    "name", ["quick/faster_rcnn_r18_fpn_rfla", "quick/dino_r18", "yaml/faster_rcnn_r50_efpnbs_rfla_dcloss.yaml"]
)
def test_config_prints_yaml_that_loads_again(name, capsys, tmp_path):
    assert run(f"config {name} train.seed=7") == 0
    text = capsys.readouterr().out
    assert "${" not in text
    assert yaml.safe_load(text)["train"]["seed"] == 7
    (tmp_path / "again.yaml").write_text(text)
    assert load_config(tmp_path / "again.yaml").train.seed == 7


def test_config_keeps_interpolations_if_asked(capsys):
    assert run("config quick/faster_rcnn_r18_fpn_rfla --unresolved") == 0
    assert "${train.max_iter}" in capsys.readouterr().out


# --- train and predict -------------------------------------------------------------------------------------------


def test_options_of_train_stand_for_overrides():
    words = ["--config", "c", "a.b=1", "--weights", "it's.pth", "-o", "out", "--resume", "--device", "cpu", "c.d=2"]
    args = command_parser("train").parse_intermixed_args(words)
    assert all_overrides(args) == [
        r"train.init_checkpoint='it\'s.pth'",
        "train.output_dir='out'",
        "train.device='cpu'",
        "a.b=1",
        "c.d=2",
    ]
    cfg = load_config("quick/faster_rcnn_r18_fpn_rfla", all_overrides(args)[:3])
    assert (cfg.train.init_checkpoint, cfg.train.output_dir, cfg.train.device) == ("it's.pth", "out", "cpu")
    assert args.resume


def test_the_script_takes_both_names_of_the_config():
    for option in ("--config-file", "--config"):
        args = net_parser().parse_intermixed_args([option, "x", "--eval-only", "a=1"])
        assert (args.config, args.eval_only, args.overrides) == ("x", True, ["a=1"])
    with pytest.raises(SystemExit):
        command_parser("train").parse_args(["--config-file", "x"])


def test_overrides_are_told_from_images(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a=b.png").touch()
    words = ["images/", "a=b.png", "model.head.x=1", "+model.y=2", "*.png", "/data/x=1/"]
    assert split_overrides(words) == (["images/", "a=b.png", "*.png", "/data/x=1/"], ["model.head.x=1", "+model.y=2"])


# --- exit codes --------------------------------------------------------------------------------------------------


def test_exit_codes(capsys):
    def stop():
        raise KeyboardInterrupt

    def full():
        raise OSError(28, "No space left on device")

    assert common.guarded(lambda: None) == 0
    assert common.guarded(lambda: 1) == 1
    assert common.guarded(full) == 2
    assert common.guarded(stop) == 130
    err = capsys.readouterr().err
    assert "No space left" in err
    assert "stopped" in err
    with pytest.raises(RuntimeError):  # a mistake of ours keeps its traceback
        common.guarded(lambda: (_ for _ in ()).throw(RuntimeError("bug")))


@pytest.mark.parametrize("text", ["a", "=1", "a="])
def test_name_value_refuses(text):
    with pytest.raises(argparse.ArgumentTypeError):
        common.name_value(text)
