from __future__ import annotations

import logging
import shutil

import pytest

from tests.helpers.cli import write_predictions, write_visdrone


@pytest.fixture
def folder(scenes, tmp_path, monkeypatch):
    """A working folder with what the examples name; commands run in it."""
    for split in ("train", "val"):
        shutil.copyfile(scenes / f"instances_{split}.json", tmp_path / f"instances_{split}.json")
    shutil.copytree(scenes / "val", tmp_path / "val")
    write_visdrone(tmp_path / "VisDrone2019-DET-val")
    write_predictions(tmp_path / "instances_val.json", tmp_path / "predictions.json")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(autouse=True)
def _logs_of_one_test():
    """Take the handlers of a training away again: the output that they write to is closed after the test."""
    yield
    for logger in map(logging.getLogger, ("d2tiny", "detectron2", "fvcore")):
        for handler in [h for h in logger.handlers if hasattr(h, "_d2tiny_handler")]:
            logger.removeHandler(handler)
            handler.close()
