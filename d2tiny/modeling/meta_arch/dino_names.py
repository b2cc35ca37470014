"""Names of the tensors of other implementations of DINO, and where :class:`TinyDINO` has them.

``detrex`` is ``projects/dino`` of IDEA-Research/detrex, ``official`` is IDEA-Research/DINO, both Apache-2.0. The names
and what they stand for are facts of the two; nothing here is their code. docs/papers/dino.md#weights-of-other-code
"""

from __future__ import annotations

import re
from collections.abc import Iterable

__all__ = ["COCO_IDS", "SOURCES", "is_unused", "own_name", "source_of", "without_twins"]

SOURCES = {"detrex": "transformer.level_embeds", "official": "transformer.level_embed"}  # what tells them apart
# The 80 of 90 category ids that COCO uses, in the order of its classes.
COCO_IDS = tuple(sorted(set(range(1, 91)) - {12, 26, 29, 30, 45, 66, 68, 69, 71, 83}))

_P = r"(weight|bias)"
_SAMPLING = r"((?:sampling_offsets|attention_weights|value_proj|output_proj)\.(?:weight|bias))"
_SELF = r"(in_proj_weight|in_proj_bias|out_proj\.weight|out_proj\.bias)"
_NORM = r"(weight|bias|running_mean|running_var)"
_ENCODER, _DECODER = r"transformer\.encoder\.layers\.(\d+)", r"transformer\.decoder\.layers\.(\d+)"
_OWN_ENCODER, _OWN_DECODER = r"encoder.layers.\1", r"decoder.layers.\1"

# Pattern of a whole name -> our name.
_BOTH = {
    r"transformer\.tgt_embed\.weight": r"selection.content.weight",
    rf"transformer\.enc_output\.{_P}": r"selection.enc_output.0.\1",
    rf"transformer\.enc_output_norm\.{_P}": r"selection.enc_output.1.\1",
    rf"transformer\.decoder\.norm\.{_P}": r"decoder.norm.\1",
    rf"transformer\.decoder\.ref_point_head\.layers\.(\d+)\.{_P}": r"decoder.ref_point_head.layers.\1.\2",
    rf"class_embed\.(\d+)\.{_P}": r"decoder.class_heads.\1.\2",
    rf"bbox_embed\.(\d+)\.layers\.(\d+)\.{_P}": r"decoder.box_heads.\1.layers.\2.\3",
    r"label_enc\.weight": r"denoising.label_embedding.weight",
}
_DETREX = {
    r"backbone\.(.+)": r"backbone.backbone.\1",  # Detectron2's own
    rf"neck\.convs\.(\d+)\.conv\.{_P}": r"backbone.neck.same.\1.0.\2",
    rf"neck\.convs\.(\d+)\.norm\.{_P}": r"backbone.neck.same.\1.1.\2",
    rf"neck\.extra_convs\.(\d+)\.conv\.{_P}": r"backbone.neck.coarser.\1.0.\2",
    rf"neck\.extra_convs\.(\d+)\.norm\.{_P}": r"backbone.neck.coarser.\1.1.\2",
    r"transformer\.level_embeds": r"level_embed",
    rf"{_ENCODER}\.attentions\.0\.{_SAMPLING}": rf"{_OWN_ENCODER}.attention.\2",
    rf"{_ENCODER}\.norms\.0\.{_P}": rf"{_OWN_ENCODER}.norm.\2",
    rf"{_ENCODER}\.norms\.1\.{_P}": rf"{_OWN_ENCODER}.feed_forward.norm.\2",
    rf"{_DECODER}\.attentions\.0\.attn\.{_SELF}": rf"{_OWN_DECODER}.self_attention.\2",
    rf"{_DECODER}\.attentions\.1\.{_SAMPLING}": rf"{_OWN_DECODER}.cross_attention.\2",
    rf"{_DECODER}\.norms\.([01])\.{_P}": rf"{_OWN_DECODER}.norms.\2.\3",
    rf"{_DECODER}\.norms\.2\.{_P}": rf"{_OWN_DECODER}.feed_forward.norm.\2",
}
_OFFICIAL = {
    r"transformer\.level_embed": r"level_embed",
    rf"transformer\.enc_out_class_embed\.{_P}": r"selection.class_head.\1",
    rf"transformer\.enc_out_bbox_embed\.layers\.(\d+)\.{_P}": r"selection.box_head.layers.\1.\2",
    rf"{_ENCODER}\.self_attn\.{_SAMPLING}": rf"{_OWN_ENCODER}.attention.\2",
    rf"{_ENCODER}\.norm1\.{_P}": rf"{_OWN_ENCODER}.norm.\2",
    rf"{_ENCODER}\.norm2\.{_P}": rf"{_OWN_ENCODER}.feed_forward.norm.\2",
    rf"{_DECODER}\.self_attn\.{_SELF}": rf"{_OWN_DECODER}.self_attention.\2",
    rf"{_DECODER}\.cross_attn\.{_SAMPLING}": rf"{_OWN_DECODER}.cross_attention.\2",
    # numbered in the order in which they were written, not in which they are run
    rf"{_DECODER}\.norm2\.{_P}": rf"{_OWN_DECODER}.norms.0.\2",
    rf"{_DECODER}\.norm1\.{_P}": rf"{_OWN_DECODER}.norms.1.\2",
    rf"{_DECODER}\.norm3\.{_P}": rf"{_OWN_DECODER}.feed_forward.norm.\2",
}
for _stack, _own in ((_ENCODER, _OWN_ENCODER), (_DECODER, _OWN_DECODER)):
    for _theirs, _ours in ((r"layers\.0\.0", 0), (r"layers\.1", 3)):
        _DETREX[rf"{_stack}\.ffns\.0\.{_theirs}\.{_P}"] = rf"{_own}.feed_forward.inner.{_ours}.\2"
    for _theirs, _ours in (("linear1", 0), ("linear2", 3)):
        _OFFICIAL[rf"{_stack}\.{_theirs}\.{_P}"] = rf"{_own}.feed_forward.inner.{_ours}.\2"
# torchvision's ResNet in the official code; other backbones (Swin) have Detectron2's names.
_RESNET = {
    r"conv1\.weight": r"stem.conv1.weight",
    rf"bn1\.{_NORM}": r"stem.conv1.norm.\1",
    r"layer(\d)\.(\d+)\.(conv\d)\.weight": r"res{stage}.\2.\3.weight",
    rf"layer(\d)\.(\d+)\.bn(\d)\.{_NORM}": r"res{stage}.\2.conv\3.norm.\4",
    r"layer(\d)\.(\d+)\.downsample\.0\.weight": r"res{stage}.\2.shortcut.weight",
    rf"layer(\d)\.(\d+)\.downsample\.1\.{_NORM}": r"res{stage}.\2.shortcut.norm.\3",
}
_RULES = {
    source: [(re.compile(pattern), own) for pattern, own in {**_BOTH, **rules}.items()]
    for source, rules in (("detrex", _DETREX), ("official", _OFFICIAL))
}
_RESNET_RULES = [(re.compile(pattern), own) for pattern, own in _RESNET.items()]
_TWIN = re.compile(r"transformer\.decoder\.(?=(?:class_embed|bbox_embed)\.)")
_BODY, _JOINED = "backbone.0.body.", "backbone.0."


def source_of(names: Iterable[str]) -> str | None:
    """Return which implementation has such names, a key of :data:`SOURCES`; None if neither."""
    known = set(names)
    return next((source for source, mark in SOURCES.items() if mark in known), None)


def without_twins(name: str) -> str:
    """Return the shorter name of a tensor that both implementations store under two."""
    return _TWIN.sub("", name)


def is_unused(name: str) -> bool:
    """Return whether a tensor has no meaning for a detector: counters of batch normalisation."""
    return name.endswith(".num_batches_tracked")


def own_name(source: str, name: str, *, num_layers: int, num_projected: int) -> str | None:
    """Return where TinyDINO has a tensor, with a head for each decoder layer; None if the name is unknown.

    Args:
        source: key of :data:`SOURCES`.
        name: of the tensor, without a twin's prefix.
        num_layers: of the decoder; detrex's head after the last is the encoder's.
        num_projected: levels of the backbone that the neck reads; the official code counts the coarser ones after them.
    """
    if source == "official":
        if name.startswith(_JOINED):
            return _of_backbone(name)
        if match := re.fullmatch(r"input_proj\.(\d+)\.([01]\.(?:weight|bias))", name):
            level = int(match[1])
            place = f"same.{level}" if level < num_projected else f"coarser.{level - num_projected}"
            return f"backbone.neck.{place}.{match[2]}"
    found = _renamed(_RULES[source], name)
    if source == "detrex" and found is not None:
        found = found.replace(f"decoder.class_heads.{num_layers}.", "selection.class_head.")
        found = found.replace(f"decoder.box_heads.{num_layers}.", "selection.box_head.")
    return found


def _of_backbone(name: str) -> str | None:
    if not name.startswith(_BODY):
        return f"backbone.backbone.{name.removeprefix(_JOINED)}"
    inner = name.removeprefix(_BODY)
    found = _renamed(_RESNET_RULES, inner)
    if found is not None and (stage := re.match(r"layer(\d)", inner)):
        found = found.replace("{stage}", str(int(stage[1]) + 1))
    return None if found is None else f"backbone.backbone.{found}"


def _renamed(rules: Iterable[tuple[re.Pattern[str], str]], name: str) -> str | None:
    for pattern, own in rules:
        if match := pattern.fullmatch(name):
            return match.expand(own)
    return None
