"""Made-up checkpoints of other implementations of DINO."""

from __future__ import annotations

import argparse

import torch

from tests.reference.dino_names import Sizes, official

NARROW_DINO = [
    "model.embed_dim=32",
    "model.encoder.num_layers=1",
    "model.encoder.feedforward_dim=8",
    "model.decoder.num_layers=1",
]


def write_official(path, **sizes):
    """Write a checkpoint of the official code, with its options and a ResNet-50; a model of ``NARROW_DINO`` fits it."""
    narrow = {"channels": 32, "hidden": 8, "encoder": 1, "decoder": 1}
    shapes = official(Sizes(**{"classes": 91, "labels": 92, **narrow, **sizes}))
    state = {name: torch.zeros(shape, dtype=torch.float16) for name, shape in shapes.items()}
    torch.save({"model": state, "args": argparse.Namespace(lr=1e-4, num_classes=91), "epoch": 11}, path)
