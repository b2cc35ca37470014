from __future__ import annotations

import ctypes
import logging
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

import d2tiny  # noqa: F401  registers everything
from d2tiny.synthetic import write_dataset
from tests.helpers import ROOT

# On a shared machine two threads are slower than one.
torch.set_num_threads(1)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip the tests that need a GPU, with the reason, where PyTorch sees none."""
    if torch.cuda.is_available():
        return
    skip = pytest.mark.skip(reason="needs a GPU: torch.cuda.is_available() is False here")
    for item in items:
        if item.get_closest_marker("gpu"):
            item.add_marker(skip)


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def _handlers(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """Take the handler that a test gave to the logger of d2tiny away again: others would see each message twice."""
    yield
    logging.getLogger("d2tiny").removeHandler(caplog.handler)


@pytest.fixture(autouse=True, scope="module")
def _freed_memory_goes_back() -> Iterator[None]:
    """Return to the system what a module's models have freed: glibc keeps it, gigabytes in each worker."""
    yield
    if trim := getattr(ctypes.CDLL(None), "malloc_trim", None):
        trim(0)


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Real aerial tiles beside the checkout; tests that need them skip, and say so, where they are absent."""
    folder = Path(os.environ.get("D2TINY_SHARED_DATA", ROOT.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"no real tiles at {folder}")
    return folder


@pytest.fixture(scope="session")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small dataset of drawn scenes in the flat layout."""
    root = tmp_path_factory.mktemp("datasets") / "aerial"
    write_dataset(root, train=8, val=3, height=96, width=128, seed=5)
    return root


@pytest.fixture
def datasets(scenes: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The same as ``$DETECTRON2_DATASETS/aerial``."""
    monkeypatch.setenv("DETECTRON2_DATASETS", str(scenes.parent))
    return scenes
