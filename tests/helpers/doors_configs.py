"""Doors of configs and of a training that goes on: overrides, programs, pointers, checkpoints, metrics."""

from __future__ import annotations

import functools
import io

import torch

from d2tiny.config import load_config, validate_config
from d2tiny.config.lazy import config_yaml
from d2tiny.engine.checkpoint import LAST, PREVIOUS, TinyCheckpointer
from d2tiny.engine.run_folder import mend_metrics
from tests.helpers.door import Door, of_bytes
from tests.helpers.models import config

CONFIG = "quick/yolox_s"
PROGRAM = b"""
from detectron2.config import LazyCall as L
from torch.nn import Linear

model = L(Linear)(in_features=2, out_features="${train.size}")
train = dict(output_dir="x", max_iter=3, size=4)
rates = [1e-3, 1e-4]
"""
EXPERIMENT = b'''
def tiny():
    """Tiny."""
    return dict(model=dict(size=4), train=dict(output_dir="x", max_iter=3))
'''
OVERRIDES = (
    b"train.max_iter=3",
    b"train.x=4",
    b"optimizer.lr=1e-3",
    b"+train.new={a: 1, b: [1, 2]}",
    b"model.head.num_classes=${train.max_iter}",
    b"model.head.assigner=MaxIoUAssigner",
    b"model={_target_: torch.nn.Linear, in_features: 2, out_features: 3}",
    b"dataloader.train.total_batch_size=2",
    b"train.max_iter=???",
    b"train.output_dir='a b'",
    b"lr_multiplier.warmup_length=0.0",
)
TOKENS = [
    b"=", b"???", b"${", b"}", b"${train", b"${..x}", b"${oc.env:HOME}", b"_target_", b"null", b"[", b"]", b"{", b":",
    b"~", b"+", b"++", b"@", b".", b"..", b"-1", b"0", b"1e999", b"9" * 40, b"'", b'"', b"\\", b",", b" ", b"\x00",
    "é".encode(), b"\xff", b"model", b"train", b"os.system", b"nan", b"true", b"*", b"(", b")", b"range(1,3)",
]  # fmt: skip


def _override(root):
    text = (root / "override.txt").read_bytes().decode("utf-8", "surrogateescape")
    validate_config(cfg := config(CONFIG, [text]), datasets=False)
    return config_yaml(cfg, resolve=True)


@functools.cache
def _checkpoint() -> bytes:
    buffer = io.BytesIO()
    model, optimizer = _training()
    torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict(), "iteration": 3}, buffer)
    return buffer.getvalue()


def _training():
    model = torch.nn.Linear(2, 2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    model(torch.ones(2)).sum().backward()
    optimizer.step()
    return model, optimizer


def _resume(root):
    """Go on; also where the last checkpoint is broken, from the one before."""
    model, optimizer = _training()
    checkpointer = TinyCheckpointer(model, str(root / "run"))
    checkpointer.add_checkpointable("optimizer", optimizer)
    assert checkpointer.resume().parent == root / "run"
    model(torch.ones(2)).sum().backward()
    optimizer.step()


def _metrics(root):
    mend_metrics(root / "run" / "metrics.json")
    assert (root / "run" / "metrics.json").read_bytes()[-1:] in (b"", b"\n")


def _printed(path):
    """Return a config as ``d2tiny config`` prints it."""
    return config_yaml(load_config(path), resolve=True)


DOORS = {
    "override": Door("override.txt", of_bytes(*OVERRIDES, tokens=TOKENS, most=2, longest=6), _override, every=4),
    "program": Door("program.py", of_bytes(PROGRAM, most=2, longest=8), lambda root: _printed(root / "program.py")),
    "experiment": Door(
        "experiment.py", of_bytes(EXPERIMENT, most=2, longest=8), lambda root: _printed(root / "experiment.py")
    ),
    "last checkpoint": Door("run/last_checkpoint", of_bytes(LAST.encode(), b"../run/" + LAST.encode()), _resume),
    "resume": Door(f"run/{LAST}", lambda rng: of_bytes(_checkpoint())(rng), _resume),
    "metrics": Door("run/metrics.json", of_bytes(b'{"iteration": 1, "loss": 2.0}\n{"iteration": 2'), _metrics),
}


def prepare(root):
    """Write the good files of these doors."""
    (root / "run").mkdir()
    for name in (LAST, PREVIOUS):
        (root / "run" / name).write_bytes(_checkpoint())
    (root / "run" / "last_checkpoint").write_text(LAST)
