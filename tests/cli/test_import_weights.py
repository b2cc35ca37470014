"""What `d2tiny import-weights` says, and that its advice is right."""

from __future__ import annotations

import shlex

import pytest
import torch

from d2tiny.utils.checkpoint_files import read_checkpoint
from tests.helpers.cli import files, parsed, run
from tests.helpers.dino_weights import NARROW_DINO, write_official

CONFIG = "aitod/dino_r50_4scale_12e"
IMPORT = f"import-weights checkpoint.pth --config {CONFIG} -o coco.pth {' '.join(NARROW_DINO)}"

pytestmark = pytest.mark.xdist_group("import_weights")


@pytest.fixture(scope="module")
def given(tmp_path_factory):
    path = tmp_path_factory.mktemp("official") / "checkpoint.pth"
    write_official(path)
    return path


@pytest.fixture
def place(given, tmp_path, monkeypatch):
    (tmp_path / "checkpoint.pth").symlink_to(given)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_settings_that_it_prints_are_those_that_are_missing(place, capsys):
    assert run(IMPORT) == 0
    text = capsys.readouterr().out
    assert "it is for 91 classes, and the model has 8" in text
    assert (
        "keep their initial values: selection.class_head (2), decoder.class_heads (2), denoising.label_embedding"
        in text
    )
    command = text.splitlines()[-1].strip()
    assert command.startswith(f"d2tiny train --config {CONFIG} --weights coco.pth")
    overrides = parsed(command).overrides
    assert overrides[len(NARROW_DINO) :] == [
        "model.selection.base_cells=null",
        "model.selection.delta_unit=null",
        "model.decoder.delta_unit=null",
        "model.cell_unit=null",
    ]
    assert "under these settings" in text
    assert run(shlex.join(["import-weights", "checkpoint.pth", "--config", CONFIG, "-o", "again.pth", *overrides])) == 0
    text = capsys.readouterr().out
    assert "under these settings" not in text
    assert text.splitlines()[-1].strip() == command.replace("coco.pth", "again.pth")
    first, again = (read_checkpoint(name)["model"] for name in ("coco.pth", "again.pth"))
    assert first.keys() == again.keys()
    assert all(torch.equal(first[name], again[name]) for name in first)


def test_what_does_not_fit_names_the_file_and_writes_nothing(place, capsys):
    assert run(IMPORT.replace("model.encoder.num_layers=1", "model.encoder.num_layers=2")) == 2
    error = capsys.readouterr().err
    assert "checkpoint.pth: 16 tensors of the model are missing" in error
    assert "model.encoder.num_layers=1" in error
    assert run("import-weights checkpoint.pth --config quick/yolox_s -o coco.pth") == 2
    assert "its model is TinyDenseDetector; weights of a DINO need a DINO" in capsys.readouterr().err
    assert files(place) == {"checkpoint.pth"}
