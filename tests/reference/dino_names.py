"""Names and shapes of the tensors of detrex's and of the official DINO, written out part by part.

``CHECKSUMS`` are of the state dicts of their R50 models, built by their own code: detrex (Apache-2.0) at commit
e244e6c3 with its ``dino_r50.py``, and IDEA-Research/DINO (Apache-2.0) at commit faa8520f with its ``DINO_4scale.py``
and ``DINO_5scale.py``.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

CHECKSUMS = {
    "detrex": "88be186416f77f34",
    "official_4scale": "61224309d2dabd56",
    "official_5scale": "c1b6158476c405d3",
}


@dataclass(frozen=True)
class Sizes:
    """Sizes of a DINO; the defaults are those of the R50 models on four scales."""

    classes: int = 80
    labels: int = 80  # rows of the label embedding
    backbone: tuple[int, ...] = (512, 1024, 2048)  # channels of the levels that the neck reads
    extra: int = 1
    channels: int = 256
    hidden: int = 2048
    encoder: int = 6
    decoder: int = 6
    heads: int = 8
    points: int = 4
    queries: int = 900

    @property
    def levels(self):
        return len(self.backbone) + self.extra


def linear(name, inputs, outputs):
    return {f"{name}.weight": (outputs, inputs), f"{name}.bias": (outputs,)}


def norm(name, channels):
    return {f"{name}.weight": (channels,), f"{name}.bias": (channels,)}


def frozen(name, channels):
    return {f"{name}.{part}": (channels,) for part in ("weight", "bias", "running_mean", "running_var")}


def mlp(name, *widths):
    out = {}
    for i in range(len(widths) - 1):
        out |= linear(f"{name}.layers.{i}", widths[i], widths[i + 1])
    return out


def sampling(name, s):
    points = s.heads * s.levels * s.points
    out = linear(f"{name}.sampling_offsets", s.channels, 2 * points)
    out |= linear(f"{name}.attention_weights", s.channels, points)
    return (
        out
        | linear(f"{name}.value_proj", s.channels, s.channels)
        | linear(f"{name}.output_proj", s.channels, s.channels)
    )


def attention(name, c):
    return {
        f"{name}.in_proj_weight": (3 * c, c),
        f"{name}.in_proj_bias": (3 * c,),
        **linear(f"{name}.out_proj", c, c),
    }


def conv(name, inputs, outputs, kernel):
    return {f"{name}.weight": (outputs, inputs, kernel, kernel), f"{name}.bias": (outputs,)}


def projections(s):
    """Input channels and kernel of the convolutions of the neck."""
    coarser = [(s.backbone[-1] if i == 0 else s.channels, 3) for i in range(s.extra)]
    return [(channels, 1) for channels in s.backbone] + coarser


def heads(s, count):
    """Class and box heads under both of their names."""
    out = {}
    for prefix in ("transformer.decoder.", ""):
        for i in range(count):
            out |= linear(f"{prefix}class_embed.{i}", s.channels, s.classes)
            out |= mlp(f"{prefix}bbox_embed.{i}", s.channels, s.channels, s.channels, 4)
    return out


def common(s):
    c = s.channels
    return {
        "transformer.tgt_embed.weight": (s.queries, c),
        **linear("transformer.enc_output", c, c),
        **norm("transformer.enc_output_norm", c),
        **mlp("transformer.decoder.ref_point_head", 2 * c, c, c),
        **norm("transformer.decoder.norm", c),
        "label_enc.weight": (s.labels, c),
    }


def detrex(s=None, backbone=None):
    """All tensors; ``backbone`` has those of the backbone by their own names."""
    s = s or Sizes()
    c = s.channels
    out = {f"backbone.{name}": shape for name, shape in (backbone or detectron2_resnet50()).items()}
    for i, (inputs, kernel) in enumerate(projections(s)):
        name = f"neck.convs.{i}" if i < len(s.backbone) else f"neck.extra_convs.{i - len(s.backbone)}"
        out |= conv(f"{name}.conv", inputs, c, kernel) | norm(f"{name}.norm", c)
    out |= {"transformer.level_embeds": (s.levels, c)} | common(s) | heads(s, s.decoder + 1)
    for i in range(s.encoder):
        name = f"transformer.encoder.layers.{i}"
        out |= sampling(f"{name}.attentions.0", s)
        out |= linear(f"{name}.ffns.0.layers.0.0", c, s.hidden) | linear(f"{name}.ffns.0.layers.1", s.hidden, c)
        out |= norm(f"{name}.norms.0", c) | norm(f"{name}.norms.1", c)
    for i in range(s.decoder):
        name = f"transformer.decoder.layers.{i}"
        out |= attention(f"{name}.attentions.0.attn", c) | sampling(f"{name}.attentions.1", s)
        out |= linear(f"{name}.ffns.0.layers.0.0", c, s.hidden) | linear(f"{name}.ffns.0.layers.1", s.hidden, c)
        for j in range(3):
            out |= norm(f"{name}.norms.{j}", c)
    return out


def official(s=None, backbone=None):
    """The same of the official code; ``backbone`` has the names that follow ``backbone.0``."""
    s = s or Sizes(classes=91, labels=92)
    c = s.channels
    out = {f"backbone.0.{name}": shape for name, shape in (backbone or torchvision_resnet50()).items()}
    for i, (inputs, kernel) in enumerate(projections(s)):
        out |= conv(f"input_proj.{i}.0", inputs, c, kernel) | norm(f"input_proj.{i}.1", c)
    out |= {"transformer.level_embed": (s.levels, c)} | common(s) | heads(s, s.decoder)
    out |= linear("transformer.enc_out_class_embed", c, s.classes) | mlp("transformer.enc_out_bbox_embed", c, c, c, 4)
    for i in range(s.encoder):
        name = f"transformer.encoder.layers.{i}"
        out |= sampling(f"{name}.self_attn", s) | norm(f"{name}.norm1", c) | norm(f"{name}.norm2", c)
        out |= linear(f"{name}.linear1", c, s.hidden) | linear(f"{name}.linear2", s.hidden, c)
    for i in range(s.decoder):
        name = f"transformer.decoder.layers.{i}"
        out |= attention(f"{name}.self_attn", c) | sampling(f"{name}.cross_attn", s)
        out |= linear(f"{name}.linear1", c, s.hidden) | linear(f"{name}.linear2", s.hidden, c)
        for j in (1, 2, 3):
            out |= norm(f"{name}.norm{j}", c)
    return out


def _bottlenecks():
    """Stage, block, input, inner and output channels of the blocks of a ResNet-50."""
    inputs = 64
    for stage, blocks in enumerate((3, 4, 6, 3)):
        for block in range(blocks):
            inner = 64 * 2**stage
            yield stage, block, inputs, inner, 4 * inner
            inputs = 4 * inner


def detectron2_resnet50():
    out = {"stem.conv1.weight": (64, 3, 7, 7)} | frozen("stem.conv1.norm", 64)
    for stage, block, inputs, inner, outputs in _bottlenecks():
        name = f"res{stage + 2}.{block}"
        convs = [("conv1", inputs, inner, 1), ("conv2", inner, inner, 3), ("conv3", inner, outputs, 1)]
        convs += [("shortcut", inputs, outputs, 1)] if block == 0 else []
        for part, a, b, kernel in convs:
            out |= {f"{name}.{part}.weight": (b, a, kernel, kernel)} | frozen(f"{name}.{part}.norm", b)
    return out


def torchvision_resnet50():
    out = {"body.conv1.weight": (64, 3, 7, 7)} | frozen("body.bn1", 64)
    for stage, block, inputs, inner, outputs in _bottlenecks():
        name = f"body.layer{stage + 1}.{block}"
        for i, a, b, kernel in ((1, inputs, inner, 1), (2, inner, inner, 3), (3, inner, outputs, 1)):
            out |= {f"{name}.conv{i}.weight": (b, a, kernel, kernel)} | frozen(f"{name}.bn{i}", b)
        if block == 0:
            out |= {f"{name}.downsample.0.weight": (outputs, inputs, 1, 1)} | frozen(f"{name}.downsample.1", outputs)
    return out


def checksum(shapes):
    text = "\n".join(f"{name} {tuple(shape)}" for name, shape in sorted(shapes.items()))
    return hashlib.sha256(text.encode()).hexdigest()[:16]
