"""Doors of exported models: the file, and what it says of itself."""

from __future__ import annotations

import json
from functools import cache

from d2tiny.runtime import ExportedModel, ModelMetadata
from d2tiny.runtime.files import onnx_metadata, seal
from tests.helpers.door import Door, of_bytes, of_json
from tests.helpers.exported import metadata, squares_graph

ABOUT = json.loads(metadata(resize={"kind": "shortest_edge", "short": 800, "max": 1333}).to_json())


@cache
def _graph() -> bytes:
    return squares_graph().SerializeToString()


def _sealed(root):
    """Seal a broken file: what the checksum would refuse reaches the reader of its outermost level."""
    path = root / "model" / "sealed.onnx"
    path.write_bytes((root / "model" / "model.onnx").read_bytes())
    seal(path)
    return onnx_metadata(path)


DOORS = {
    "exported metadata": Door(
        "metadata.json",
        of_json(ABOUT),
        lambda root: ModelMetadata.from_json((root / "metadata.json").read_text("utf-8", "replace")),
    ),
    "exported model": Door(
        "model/model.onnx",
        lambda rng: of_bytes(_graph())(rng),
        lambda root: ExportedModel(root / "model" / "model.onnx", backend="onnxruntime", num_threads=1),
        every=4,
    ),
    "outermost level of an exported model": Door(
        "model/model.onnx", lambda rng: of_bytes(_graph())(rng), _sealed, writes="model"
    ),
}
