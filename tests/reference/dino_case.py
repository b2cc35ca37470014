"""A small DINO whose weights, images and noise anyone can make again.

Its runs in other code are in ``detrex_dino.json`` and ``official_dino.json``, by ``make_detrex_dino.py`` and
``make_official_dino.py``. All values come from raw integers of PCG64, which do not depend on the version of numpy or
PyTorch, seeded by the name of the tensor in that code.
"""

from __future__ import annotations

import json
import math
import re
import zlib
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from detectron2.layers import FrozenBatchNorm2d
from detectron2.modeling.backbone import BasicStem, ResNet
from detectron2.modeling.backbone.resnet import BasicBlock
from detectron2.structures import Boxes, Instances

from tests.reference.dino_names import Sizes, detrex, official

_SIZES = {"backbone": (16, 32, 64), "hidden": 64, "encoder": 2, "decoder": 3, "queries": 12}
SIZES = {
    "detrex": Sizes(classes=5, labels=5, **_SIZES),
    "official": Sizes(classes=5, labels=6, **_SIZES),  # one more label, which is never used
}
IMAGES = ((96, 128), (70, 90))  # height, width: the second is padded
OBJECTS = (  # x1, y1, x2, y2, class
    ((10, 12, 22, 20, 0), (60, 40, 90, 70, 3), (100, 5, 107, 30, 4)),
    ((20, 30, 36, 41, 2), (50.5, 8, 64, 15, 1)),
)
DENOISING = {"detrex": 6, "official": 100}  # two and 33 groups of three; below 100 the official code counts otherwise
DETECTIONS = 30
SALT = 0  # with it no two proposals of an image are so near that rounding could change their order


def file(source):
    return Path(__file__).parent / f"{source}_dino.json"


def load(source):
    return json.loads(file(source).read_text())


def uniform(name, shape):
    """Values in [-1, 1) that follow from the name."""
    raw = np.random.PCG64(zlib.crc32(f"{SALT} {name}".encode())).random_raw(math.prod(shape))
    values = (np.asarray(raw, dtype=np.uint64) >> np.uint64(11)).astype(np.float64) * 2.0**-52 - 1.0
    return torch.from_numpy(values.reshape(shape).astype(np.float32))


def weight(name, shape):
    """Values of a size that keeps activations near 1 and boxes inside the image."""
    values = uniform(name, shape)
    if name.endswith("running_var"):
        return 1 + 0.5 * values
    if name.endswith("sampling_offsets.bias"):
        return 2 * values
    if "class_embed" in name and name.endswith("bias"):
        return 0.5 * values - 2
    if len(shape) == 1:
        return 1 + 0.3 * values if name.endswith("weight") else 0.2 * values
    if name.endswith(("tgt_embed.weight", "label_enc.weight", "level_embeds")):
        return values
    small = 0.3 if "bbox_embed" in name or "sampling_offsets" in name else 1.0
    return small * values * math.sqrt(3 / math.prod(shape[1:]))


def short(name):
    """The tensor's name without the prefix of its second one."""
    return name.replace("transformer.decoder.class_embed", "class_embed").replace(
        "transformer.decoder.bbox_embed", "bbox_embed"
    )


def backbone():
    """Detectron2's ResNet, small; both implementations take it."""
    channels = (8, 8, 16, 32, 64)
    stages = [
        ResNet.make_stage(
            BasicBlock,
            1,
            stride_per_block=[1 if i == 0 else 2],
            in_channels=channels[i],
            out_channels=channels[i + 1],
            norm="FrozenBN",
        )
        for i in range(4)
    ]
    model = ResNet(BasicStem(3, 8, norm="FrozenBN"), stages, out_features=["res3", "res4", "res5"])
    assert any(isinstance(m, FrozenBatchNorm2d) for m in model.modules())
    return model


def weights(source):
    """All tensors by their names in that code; the official one has the same heads in all layers."""
    of_backbone = {name: tuple(value.shape) for name, value in backbone().state_dict().items()}
    shapes = {"detrex": detrex, "official": official}[source](SIZES[source], of_backbone)
    if source == "detrex":
        return {name: weight(short(name), shape) for name, shape in shapes.items()}
    return {name: weight(re.sub(r"^(\w+_embed)\.\d+", r"\1.0", short(name)), shape) for name, shape in shapes.items()}


def batch():
    """Inputs in Detectron2's format, with ground truth."""
    items = []
    for i, (size, objects) in enumerate(zip(IMAGES, OBJECTS, strict=True)):
        pixels = ((uniform(f"image {i}", (3, *size)) + 1) * 128).to(torch.uint8)
        boxes = torch.tensor([o[:4] for o in objects], dtype=torch.float32)
        labels = torch.tensor([o[4] for o in objects])
        instances = Instances(size, gt_boxes=Boxes(boxes), gt_classes=labels)
        items.append({"image": pixels, "height": size[0], "width": size[1], "instances": instances})
    return items


@contextmanager
def fixed_noise(patch):
    """Let noise on boxes follow from the boxes, so that it does not depend on the order in which it is drawn.

    Args:
        patch: sets an attribute and puts it back at the end of the block, as ``unittest.mock.patch.object``.
    """

    def rand_like(x, **_):
        return (x * 7.31) % 1

    def randint_like(x, low=0, high=None, **_):
        assert high in (2, None), (low, high)  # a sign
        return ((x * 3.71) % 1 > 0.5).to(x.dtype)

    with patch(torch, "rand_like", rand_like), patch(torch, "randint_like", randint_like):
        yield


def rounded(values):
    return [rounded(v) for v in values] if values.ndim > 1 else [round(float(v), 6) for v in values]


def fingerprint(name, values):
    """Norm of a tensor, and its product with fixed values: the second sees what is permuted."""
    values = values.detach().double()
    probe = uniform(f"probe {name}", tuple(values.shape)).double()
    return [float(values.norm()), float((values * probe).sum())]
