"""The reader of checkpoints: what each kind of file is, damage, and that nothing in a file is run."""

from __future__ import annotations

import argparse
import gzip
import os
import pickle
import random
from collections import OrderedDict

import numpy as np
import pytest
import torch

from d2tiny import model_zoo
from d2tiny.utils.checkpoint_files import read_checkpoint
from d2tiny.utils.errors import CheckpointError
from d2tiny.utils.weights import load_weights

CONFIG = "quick/faster_rcnn_r18_fpn_rfla"


class Program:
    """Makes a folder when it is unpickled."""

    def __init__(self, folder):
        self.folder = folder

    def __reduce__(self):
        return os.mkdir, (str(self.folder),)


def refused(path, words, *more):
    with pytest.raises(CheckpointError, match=words) as caught:
        read_checkpoint(path)
    assert path.name in str(caught.value)
    assert all(word in str(caught.value) for word in more)
    assert len(str(caught.value)) < 700, "a sentence, not a page"


NAN, NO_MODEL = float("nan"), "neither tensors nor an entry 'model'"
KINDS = {
    "a list": ([1, 2], "holds a list"),
    "a tensor": (torch.zeros(2), "holds a Tensor"),
    "nothing": ({}, "holds nothing"),
    "numbers": ({"epoch": 3}, NO_MODEL),
    "mmdet": ({"meta": {"epoch": 1}, "state_dict": {"a": torch.zeros(1)}}, "as checkpoints of MMDetection"),
    "tensors elsewhere": ({"ema": {"a": torch.zeros(1)}, "epoch": 3}, r"under 'ema'.*torch.load\(FILE\)\['ema'\]"),
    "tensors beside nothing": ({"model": None, "ema": {"a": torch.zeros(1)}}, "under 'ema'"),
    "tensors deeper": ({"model": {"state_dict": {"a": torch.zeros(1)}}}, "'state_dict', a dict"),
    "model is a list": ({"model": [torch.zeros(1)]}, "its entry 'model' is a list"),
    "model is empty": ({"model": {}}, "its entry 'model' is empty"),
    "model holds a number": ({"model": {"a": torch.zeros(1), "b": 2}}, "'b', a int"),
    "a key is a number": ({"model": {3: torch.zeros(1)}}, "holds 3"),
    "NaN": ({"a": torch.ones(2), "b.w": torch.tensor([1, NAN])}, r"1 of 2 tensors are NaN or infinite \(first: b.w\)"),
    "infinite": ({"a": torch.tensor([1, float("inf")], dtype=torch.float16)}, "NaN or infinite"),
    "sparse": ({"a": torch.eye(2).to_sparse()}, "no plain tensor"),
    "larger than its data": ({"a": torch.zeros(1).expand(10**12)}, "no plain tensor"),
    "a numpy number": ({"model": {"a": torch.zeros(1)}, "x": np.float64(3)}, r"multiarray\.scalar besides tensors"),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", KINDS)
def test_what_is_no_checkpoint_is_told(tmp_path, kind):
    content, words = KINDS[kind]
    torch.save(content, tmp_path / "x.pth")
    refused(tmp_path / "x.pth", words)


def test_files_that_torch_did_not_write(tmp_path):
    (tmp_path / "zero.pth").touch()
    refused(tmp_path / "zero.pth", "is empty")
    (tmp_path / "hello.pth").write_text("hello")
    refused(tmp_path / "hello.pth", "a text file", "'hello'")
    (tmp_path / "bytes.pth").write_bytes(bytes(range(256)))
    refused(tmp_path / "bytes.pth", "no checkpoint of torch.save")
    (tmp_path / "cut.pth").write_bytes(b"PK\x03\x04 half a file")
    refused(tmp_path / "cut.pth", "is damaged")
    refused(tmp_path, "is a folder")
    refused(tmp_path / "no.pth", "no such file")
    os.mkfifo(tmp_path / "pipe.pth")
    refused(tmp_path / "pipe.pth", "not a regular file")
    for name, content, words in (
        ("a.pth", b"\x10\0\0\0\0\0\0\0" + b'{"a": {}}       ', "a safetensors file.*safetensors.torch.load_file"),
        ("b.pth", b"\x89PNG\r\n\x1a\n" + bytes(90), "an image"),
        ("c.pth", gzip.compress(b"weights"), "a gzip archive"),
        ("d.pth", bytes(1000), "a file of zeros, cut off"),
        ("e.pth", pickle.dumps({"a": 3}, protocol=5), "a pickle of protocol 5"),
        ("f.pth", "hello".encode("utf-16"), "text file"),
    ):
        (tmp_path / name).write_bytes(content)
        refused(tmp_path / name, words)
    np.savez(tmp_path / "g.pth.npz", a=np.zeros(1))
    refused((tmp_path / "g.pth.npz").rename(tmp_path / "g.pth"), r"archive \(a.npy\) was not written by torch.save")
    torch.save({"a": torch.zeros(99)}, tmp_path / "h.pth")
    (tmp_path / "h.pth").write_bytes((tmp_path / "h.pth").read_bytes()[:-30])
    refused(tmp_path / "h.pth", "is damaged: its end is missing")
    torch.save({"a": torch.zeros(99)}, tmp_path / "i.pth")
    content = bytearray((tmp_path / "i.pth").read_bytes())
    content[content.rfind(b"PK\6\7") + 16] = 2  # the number of parts of a zip archive
    (tmp_path / "i.pth").write_bytes(content)
    refused(tmp_path / "i.pth", "is damaged: its table of contents")
    refused(tmp_path / ("x" * 300), "File name too long")
    torch.jit.save(torch.jit.script(torch.nn.Linear(1, 1)), str(tmp_path / "script.pth"))
    refused(tmp_path / "script.pth", "TorchScript")


def test_damage_is_refused(tmp_path):
    """A zeroed block or a flipped bit anywhere: refused, or without effect on any tensor."""
    weights = {f"layer{i}": torch.randn(40, 100) for i in range(10)}
    torch.save({"model": weights}, tmp_path / "a.pth")
    content = (tmp_path / "a.pth").read_bytes()
    generator, seen = random.Random(0), 0
    for number in range(60):
        damaged, place = bytearray(content), generator.randrange(len(content))
        if number % 2:
            damaged[place] ^= 1 << generator.randrange(8)
        else:
            damaged[place : place + 4096] = bytes(len(damaged[place : place + 4096]))
        (tmp_path / "b.pth").write_bytes(damaged)
        try:
            found = read_checkpoint(tmp_path / "b.pth")["model"]
        except CheckpointError as err:
            assert "b.pth" in str(err)
            seen += 1
        else:
            assert all(torch.equal(found[key], value) for key, value in weights.items())
    assert seen > 45


def test_nothing_is_run(tmp_path):
    mark = tmp_path / "executed"
    content = {"model": {"a": np.zeros(1), "b": Program(mark)}, "__author__": "x"}
    for name, save in (("a.pkl", pickle.dump), ("a.pth", torch.save), ("b.pth", pickle.dump)):
        with (tmp_path / name).open("wb") as file:
            save(content, file)
        with pytest.raises(CheckpointError, match=name):
            read_checkpoint(tmp_path / name)
        with pytest.raises(CheckpointError, match=name):
            model_zoo.get_cfg(CONFIG, tmp_path / name)
    assert not mark.exists()


def test_the_predictors_door_is_guarded_too(tmp_path):
    """``MODEL.WEIGHTS`` may be set after get_cfg; the model is built before Detectron2 reads the file."""
    from detectron2.engine import DefaultPredictor

    (tmp_path / "x.pkl").write_bytes(pickle.dumps({"model": Program(tmp_path / "executed"), "__author__": "x"}))
    cfg = model_zoo.get_cfg(CONFIG, device="cpu")
    cfg.MODEL.WEIGHTS = str(tmp_path / "x.pkl")
    with pytest.raises(CheckpointError, match=r"numpy arrays and nothing else.*mkdir"):
        DefaultPredictor(cfg)
    assert not (tmp_path / "executed").exists()


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_arrays_of_detectron2s_pickles(tmp_path, protocol):
    arrays = {
        "a": np.arange(6, dtype="f4").reshape(2, 3),
        "fortran": np.asfortranarray(np.arange(6, dtype="f8").reshape(2, 3)),
        "big endian": np.arange(3, dtype=">i4"),
        "empty": np.zeros((0, 3), "f2"),
        "number": np.array(7),
    }
    content = OrderedDict(model=arrays, __author__="someone", matching_heuristics=True)
    (tmp_path / "a.pkl").write_bytes(pickle.dumps(content, protocol=protocol))
    found = read_checkpoint(tmp_path / "a.pkl")
    assert found["matching_heuristics"]
    for key, value in arrays.items():
        assert np.array_equal(found["model"][key].numpy(), value), key
    blobs = {"conv1_w": np.ones(2, "f4"), "conv1_w_momentum": np.ones(2, "f4")}
    (tmp_path / "caffe.pkl").write_bytes(pickle.dumps({"blobs": blobs}, protocol=protocol))
    found = read_checkpoint(tmp_path / "caffe.pkl")
    assert (list(found["model"]), found["__author__"]) == (["conv1_w"], "Caffe2")


def test_pickles_of_other_things(tmp_path):
    for content, words in (
        ([1], "holds a list"),
        ({"a": np.array([None])}, "not of numbers"),
        ({"a": np.array(["text"])}, "not of numbers"),
        ({"model": {"a": 3}, "__author__": "x"}, "'a', a int"),
    ):
        (tmp_path / "a.pkl").write_bytes(pickle.dumps(content))
        refused(tmp_path / "a.pkl", words)
    (tmp_path / "a.pkl").write_bytes(b"\x80\x04garbage")
    refused(tmp_path / "a.pkl", "Nothing of it was run")
    with (tmp_path / "b.pkl").open("wb") as file:
        torch.save({"a": torch.zeros(1)}, file)
    refused(tmp_path / "b.pkl", "rename it to b.pth")


def test_every_way_of_saving_weights_is_read(tmp_path):
    model = torch.nn.Linear(2, 2)
    state = {key: value + 1 for key, value in model.state_dict().items()}
    prefixed = {f"module.{key}": value for key, value in state.items()}
    compiled = {f"module._orig_mod.{key}": value for key, value in state.items()}
    for content in (state, {"model": state}, {"model": prefixed, "epoch": 3}, prefixed, compiled):
        for new in (True, False):
            torch.save(content, tmp_path / "a.pth", _use_new_zipfile_serialization=new)
            other = torch.nn.Linear(2, 2)
            load_weights(other, tmp_path / "a.pth")
            assert torch.equal(other.weight, state["weight"])


def test_options_of_a_training_are_a_container(tmp_path):
    """The DETR family saves its argparse options; a name among them that could run code is refused as everywhere."""
    path, weights = tmp_path / "m.pth", {"w": torch.ones(2)}
    torch.save({"model": weights, "args": argparse.Namespace(lr=1e-4, lrs=[1, 2])}, path)
    checkpoint = read_checkpoint(path)
    assert torch.equal(checkpoint["model"]["w"], weights["w"])
    assert checkpoint["args"].lrs == [1, 2]
    torch.save({"model": weights, "args": argparse.Namespace(run=os.system)}, path)
    with pytest.raises(CheckpointError, match=r"it names \w+\.system besides tensors"):
        read_checkpoint(path)
