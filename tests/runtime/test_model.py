"""Exported models under OpenVINO and ONNX Runtime: the same squares, and one message for every bad file or image."""

from __future__ import annotations

import builtins
import importlib.util
import subprocess
import sys

import numpy as np
import pytest

from d2tiny.runtime import ArrayDetections, ExportedModel
from d2tiny.runtime.backends import default_threads, openvino_core
from d2tiny.runtime.files import onnx_metadata, seal
from d2tiny.utils.errors import CheckpointError, ConfigError, ImageError, MissingPackageError
from tests.helpers.exported import metadata, squares_graph, write_onnx, write_openvino
from tests.helpers.squares import random_boxes, scene, true_squares

BOXES = random_boxes(150, 120, 20)
WAYS = [("model.onnx", "onnxruntime"), ("model.onnx", "openvino"), ("ir", "openvino")]


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    write_onnx(folder / "model.onnx")
    (folder / "ir").mkdir()
    write_openvino(folder / "ir" / "model.xml")
    return folder


def squares(found: ArrayDetections) -> np.ndarray:
    data = np.column_stack((found.boxes, found.classes))
    return data[np.lexsort(data.T)]


@pytest.mark.parametrize(("name", "backend"), WAYS)
def test_squares_are_found(models, name, backend):
    """Exactly, in each image of a batch, by falling score; none in an empty one."""
    model = ExportedModel(models / name, backend=backend, num_threads=1)
    assert (model.backend, model.metadata) == (backend, metadata())
    images = np.stack([scene(150, 120, boxes) for boxes in (BOXES, BOXES[:3], [])])
    found = model(images)
    for one, boxes in zip(found, (BOXES, BOXES[:3], []), strict=True):
        np.testing.assert_array_equal(squares(one), true_squares(boxes))
        assert (one.boxes.dtype, one.scores.dtype, one.classes.dtype) == (np.float32, np.float32, np.int32)
        assert (np.diff(one.scores) <= 0).all()
    # 0.5 + area / 10,000
    areas = np.prod(found[0].boxes[:, 2:] - found[0].boxes[:, :2], axis=1)
    np.testing.assert_allclose(found[0].scores, 0.5 + areas / 10_000, atol=1e-6)
    [alone] = model(images[1:2])
    np.testing.assert_array_equal(alone.boxes, found[1].boxes)


def test_a_graph_of_one_image_gets_them_one_by_one(tmp_path):
    write_onnx(tmp_path / "m.onnx", metadata(batch=False))
    model = ExportedModel(tmp_path / "m.onnx", backend="onnxruntime")
    shapes, run = [], model._session.run
    model._session.run = lambda images: shapes.append(images.shape) or run(images)
    assert [len(found.scores) for found in model(np.stack([scene(150, 120, BOXES)] * 3))] == [20] * 3
    assert shapes == [(1, 120, 150, 3)] * 3


def test_channels_in_the_order_of_the_graph(tmp_path):
    write_onnx(tmp_path / "m.onnx", metadata(channels="BGR"))
    [found] = ExportedModel(tmp_path)(np.ascontiguousarray(scene(150, 120, BOXES)[None, :, :, ::-1]))
    np.testing.assert_array_equal(squares(found), true_squares(BOXES))


def test_bf16_is_openvinos(tmp_path, caplog):
    """The hint reaches the compiled model where the processor has bfloat16; ONNX Runtime refuses."""
    path = write_onnx(tmp_path / "m.onnx", metadata(precision="bf16"))
    with pytest.raises(ConfigError, match="onnxruntime cannot do on processors; use openvino"):
        ExportedModel(path, backend="onnxruntime")
    import openvino

    kind = {True: openvino.Type.bf16, False: openvino.Type.f32}
    has = "BF16" in openvino_core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    used = ExportedModel(path)._session._model.get_property("INFERENCE_PRECISION_HINT")
    assert used == kind[has]
    assert ("computes in float32" in caplog.text) != has
    path = write_onnx(tmp_path / "f.onnx")
    assert ExportedModel(path)._session._model.get_property("INFERENCE_PRECISION_HINT") == kind[False]


def test_threads(models, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    assert default_threads() == 3
    monkeypatch.setenv("OMP_NUM_THREADS", "many")
    assert default_threads() >= 1
    model = ExportedModel(models / "ir", num_threads=1)
    assert model._session._model.get_property("INFERENCE_NUM_THREADS") == 1
    session = ExportedModel(models / "model.onnx", backend="onnxruntime", num_threads=2)._session._session
    assert session.get_session_options().intra_op_num_threads == 2
    for wrong in (0, True):
        with pytest.raises(ConfigError, match="num_threads"):
            ExportedModel(models / "ir", num_threads=wrong)


SIGNAL_SCRIPT = """
import os, signal, sys
import numpy as np
from d2tiny.runtime import ExportedModel

signal.signal(signal.SIGUSR1, lambda number, frame: print("handled"))
models = [ExportedModel(sys.argv[1]) for _ in range(3)]
image = np.zeros((1, 64, 64, 3), np.uint8)
while models:
    models[0](image)
    del models[0]  # in the order in which they were made
    os.kill(os.getpid(), signal.SIGUSR1)
"""


def test_signals_after_models_are_freed(models):
    """The stack that OpenVINO gives to signal handlers outlives the models."""
    command = [sys.executable, "-X", "faulthandler", "-c", SIGNAL_SCRIPT, str(models / "ir")]
    result = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert (result.returncode, result.stdout) == (0, "handled\n" * 3), result.stderr


def test_the_default_library(models, monkeypatch):
    assert ExportedModel(models / "model.onnx").backend == "openvino"
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "openvino" else find(name))
    assert ExportedModel(models / "model.onnx").backend == "onnxruntime"


@pytest.mark.parametrize(("name", "backend"), WAYS)
def test_a_missing_library_is_named_with_the_extra(models, name, backend, monkeypatch):
    inner = builtins.__import__

    def missing(module, *args, **kwargs):
        raise ModuleNotFoundError(module) if module.split(".")[0] == backend else inner(module, *args, **kwargs)

    monkeypatch.setattr("importlib.import_module", missing)
    with pytest.raises(MissingPackageError, match=r"pip install 'd2tiny\[runtime\]'"):
        ExportedModel(models / name, backend=backend)


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (np.zeros((4, 4, 3), np.uint8), r"image\[None\]"),
        ([1], "got list"),
        (np.zeros((0, 4, 4, 3), np.uint8), "has no image"),
        (np.zeros((1, 4, 4, 4), np.uint8), "Leave out the alpha channel"),
        (np.zeros((1, 4, 4, 1), np.uint8), "Repeat a grey image"),
        (np.zeros((1, 3, 4, 5), np.uint8), "Exchange the axes"),
        (np.zeros((1, 0, 4, 3), np.uint8), "has no pixel"),
        (np.full((1, 4, 4, 3), 9, np.uint16), "got uint16"),
        (np.full((1, 4, 4, 3), 9.0), "got float64. Convert them"),
    ],
)
def test_no_images(models, images, message):
    with pytest.raises(ImageError, match=message):
        ExportedModel(models / "model.onnx", backend="onnxruntime")(images)


def test_sizes_that_a_graph_does_not_take(tmp_path):
    write_onnx(tmp_path / "m.onnx", metadata(max_size=100))
    with pytest.raises(ImageError, match="up to 100 px, got 120×80"):
        ExportedModel(tmp_path, backend="onnxruntime")(np.zeros((1, 80, 120, 3), np.uint8))
    model = squares_graph()
    for i, side in ((1, 64), (2, 96)):
        model.graph.input[0].type.tensor_type.shape.dim[i].dim_value = side
    (tmp_path / "m.onnx").write_bytes(model.SerializeToString())
    for backend in ("onnxruntime", "openvino"):
        fixed = ExportedModel(tmp_path, backend=backend)
        assert len(fixed(np.zeros((1, 64, 96, 3), np.uint8))) == 1
        with pytest.raises(ImageError, match="takes images of 96×64 px only, got 120×80"):
            fixed(np.zeros((1, 80, 120, 3), np.uint8))


def test_what_a_library_fails_with(models, monkeypatch):
    model = ExportedModel(models / "model.onnx", backend="onnxruntime")
    for text, kind in (("bad_alloc", MemoryError), ("Failed to allocate memory", MemoryError), ("a", CheckpointError)):

        def fail(images, text=text):
            raise RuntimeError(text)

        monkeypatch.setattr(model._session, "run", fail)
        with pytest.raises(kind, match=text):
            model(np.zeros((1, 64, 64, 3), np.uint8))


# --- files --------------------------------------------------------------------------------------------------------


def test_what_is_no_model(tmp_path, models):
    for name, content, message in (
        ("none.onnx", None, "none.onnx: no such file"),
        ("a.onnx", b"", "is empty"),
        ("b.onnx", b"hello world, a text " * 9, "is no ONNX file, or damaged"),
        ("c.xml", b"<html></html>", "c.bin, which holds its weights, is not beside it"),
        ("d.pt", b"x", "a TorchScript file needs PyTorch: load it with torch.jit.load"),
        ("e.ts", b"x", "a TorchScript file needs PyTorch"),
        ("f.pth", b"x", "this is a checkpoint, not an exported model"),
        ("g.jpg", b"x", "not an exported model; name a model.onnx or a model.xml"),
    ):
        if content is not None:
            (tmp_path / name).write_bytes(content)
        with pytest.raises(CheckpointError, match=message):
            ExportedModel(tmp_path / name)
    with pytest.raises(CheckpointError, match=r"several models \(a.onnx, b.onnx, c.xml\); name one"):
        ExportedModel(tmp_path)
    (tmp_path / "empty").mkdir()
    with pytest.raises(CheckpointError, match=r"empty: this folder has no model.onnx or model.xml"):
        ExportedModel(tmp_path / "empty")
    with pytest.raises(ConfigError, match=r"onnxruntime does not read OpenVINO's \.xml"):
        ExportedModel(models / "ir", backend="onnxruntime")
    with pytest.raises(ConfigError, match="Did you mean 'onnxruntime'"):
        ExportedModel(models / "model.onnx", backend="onnx-runtime")


@pytest.mark.parametrize("backend", ["onnxruntime", "openvino"])
def test_an_onnx_file_that_is_cut_off_or_changed(tmp_path, models, backend):
    """Wherever: the checksum tells what the libraries would load, such as a changed weight."""
    content = (models / "model.onnx").read_bytes()
    path = tmp_path / "m.onnx"
    for end in (1, 2, 10, 1000, len(content) - 100, len(content) - 1):
        path.write_bytes(content[:end])
        with pytest.raises(CheckpointError, match=r"m\.onnx"):
            ExportedModel(path, backend=backend)
    rng = np.random.default_rng(0)
    for place in rng.integers(0, len(content) - 120, 40).tolist():
        changed = bytearray(content)
        changed[place] ^= 1 << int(rng.integers(8))
        path.write_bytes(changed)
        with pytest.raises(CheckpointError, match=r"m\.onnx"):
            ExportedModel(path, backend=backend)


@pytest.mark.parametrize("backend", ["onnxruntime", "openvino"])
def test_a_graph_that_is_broken_inside(tmp_path, backend):
    """Without a checksum, what the library says is told."""
    model = squares_graph()
    model.graph.node[3].op_type = "NoSuchOperator"
    (tmp_path / "m.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(CheckpointError, match=rf"m.onnx cannot be loaded by {backend}: it is damaged, or of a newer"):
        ExportedModel(tmp_path, backend=backend)


@pytest.mark.parametrize("backend", ["onnxruntime", "openvino"])
def test_onnx_files_of_others(tmp_path, backend):
    path = tmp_path / "m.onnx"
    model = squares_graph()
    del model.metadata_props[:]
    path.write_bytes(model.SerializeToString())
    with pytest.raises(CheckpointError, match="no model that d2tiny exported"):
        ExportedModel(path, backend=backend)
    path.write_bytes(squares_graph(text='{"format_version": 9}').SerializeToString())
    with pytest.raises(ConfigError, match=r"m\.onnx: metadata: format_version=9"):
        ExportedModel(path, backend=backend)
    model = squares_graph()
    model.graph.output[1].name = model.graph.node[-2].output[0] = "points"
    path.write_bytes(model.SerializeToString())
    with pytest.raises(CheckpointError, match="not the graph of a detector: it takes images and gives boxes, points"):
        ExportedModel(path, backend=backend)


def test_a_sealed_file_is_still_onnx(models):
    import onnx

    model = onnx.load(models / "model.onnx")
    props = {entry.key: entry.value for entry in model.metadata_props}
    assert list(props) == ["producer", "d2tiny", "d2tiny_sha256"]
    assert onnx_metadata(models / "model.onnx") == props["d2tiny"] == metadata().to_json()


def test_long_metadata_and_no_seal(tmp_path):
    about = metadata(title="x" * 100_000)
    path = tmp_path / "m.onnx"
    path.write_bytes(squares_graph(about).SerializeToString())
    assert onnx_metadata(path) == about.to_json()
    seal(path)
    assert onnx_metadata(path) == about.to_json()


def test_openvino_files_that_are_damaged(tmp_path, models):
    """Cut off, or changed anywhere, with the checksum and, in other places than the weights, without."""
    xml, weights = ((models / "ir" / f"model.{suffix}").read_bytes() for suffix in ("xml", "bin"))
    bare = xml[: xml.rindex(b"\n<!-- sha256 ")]
    rng = np.random.default_rng(0)
    for one, other in (
        *((bare[:n], weights) for n in (10, 1000, len(bare) - 50)),
        *((xml, weights[:n]) for n in (0, 10, len(weights) - 1)),
        (bare, weights[:-1]),
        (b"hello" * 99, weights),
        (xml, bytes([weights[0] ^ 1]) + weights[1:]),
        *((xml[:n] + bytes([xml[n] ^ 1]) + xml[n + 1 :], weights) for n in rng.integers(0, len(bare), 20).tolist()),
        (xml[:-10] + bytes([xml[-10] ^ 1]) + xml[-9:], weights),  # in the checksum, of which any digit may be 0
    ):
        (tmp_path / "m.xml").write_bytes(one)
        (tmp_path / "m.bin").write_bytes(other)
        with pytest.raises(CheckpointError, match=r"m\.(xml|bin)"):
            ExportedModel(tmp_path)
    (tmp_path / "m.bin").write_bytes(weights)
    (tmp_path / "m.xml").write_bytes(bare)
    assert ExportedModel(tmp_path).metadata == metadata()
    (tmp_path / "m.xml").write_text(bare.decode().replace("<d2tiny>", "<other>").replace("</d2tiny>", "</other>"))
    with pytest.raises(CheckpointError, match="no model that d2tiny exported"):
        ExportedModel(tmp_path)
