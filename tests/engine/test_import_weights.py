"""Weights of detrex's and of the official DINO: made-up ones of the right names, each taken over once or told."""

from __future__ import annotations

import functools

import pytest
import torch
import torchvision
from detectron2.config import instantiate
from detectron2.layers import ShapeSpec
from torch import nn

from d2tiny.engine.checkpoint import TinyCheckpointer, common_prefixes, write_checkpoint
from d2tiny.engine.import_weights import import_weights
from d2tiny.modeling.assigners import HungarianMatcher
from d2tiny.modeling.backbone import TimmBackbone
from d2tiny.modeling.meta_arch import TinyDINO
from d2tiny.modeling.meta_arch.dino_names import COCO_IDS, own_name
from d2tiny.modeling.necks import ChannelMapper, NeckedBackbone
from d2tiny.modeling.transformer import DeformableEncoder, Denoising, DINOCriterion, DINODecoder, QuerySelection
from d2tiny.utils.errors import CheckpointError
from d2tiny.utils.weights import load_weights
from tests.helpers.models import config
from tests.reference import dino_names as theirs
from tests.reference.dino_case import uniform

SMALL = {"backbone": (6, 12), "channels": 32, "hidden": 8, "encoder": 1, "decoder": 2, "heads": 2, "queries": 7}
DETREX, OFFICIAL = theirs.Sizes(**SMALL), theirs.Sizes(classes=91, labels=92, **SMALL)


class Maps(nn.Module):
    """A backbone of one convolution a level."""

    def __init__(self, channels):
        super().__init__()
        self.levels = nn.ModuleList(nn.Conv2d(3, c, 2, stride=8 * 2**i, bias=False) for i, c in enumerate(channels))
        self.size_divisibility = 0

    def output_shape(self):
        return {f"c{i}": ShapeSpec(channels=m.out_channels, stride=m.stride[0]) for i, m in enumerate(self.levels)}

    def forward(self, x):
        return {f"c{i}": m(x) for i, m in enumerate(self.levels)}


MAPS = {f"levels.{i}.weight": (c, 3, 2, 2) for i, c in enumerate(SMALL["backbone"])}


def build(classes=80, *, body=None, levels=("c0", "c1"), queries=7, shared=True, denoising=True, **settings):
    s = DETREX
    size = {"embed_dim": s.channels, "num_heads": s.heads, "num_levels": s.levels, "feedforward_dim": s.hidden}
    kinds = {"num_classes": classes, "embed_dim": s.channels}
    neck = ChannelMapper(in_features=levels, in_channels=s.backbone, channels=s.channels)
    torch.manual_seed(0)
    return TinyDINO(
        backbone=NeckedBackbone(backbone=body or Maps(s.backbone), neck=neck),
        in_features=["m0", "m1", "m2"],
        encoder=DeformableEncoder(num_layers=s.encoder, **size),
        selection=QuerySelection(num_queries=queries, base_cells=2.0, delta_unit="box", **kinds),
        decoder=DINODecoder(num_layers=s.decoder, num_classes=classes, shared_heads=shared, **size),
        denoising=Denoising(**kinds) if denoising else None,
        criterion=DINOCriterion(matcher=HungarianMatcher()),
        pixel_mean=[123.675, 116.28, 103.53],
        pixel_std=[58.395, 57.12, 57.375],
        **kinds,
        **settings,
    )


def made(shapes, *, one_head=False):
    """Weights of these shapes; with ``one_head`` all layers of the decoder have the same."""
    layer = "0" if one_head else None
    state = {}
    for name, shape in shapes.items():
        key = name.replace("transformer.decoder.class_embed", "class_embed")
        key = key.replace("transformer.decoder.bbox_embed", "bbox_embed")
        parts = key.split(".")
        if layer and parts[0] in ("class_embed", "bbox_embed"):
            parts[1] = layer
        state[name] = uniform(".".join(parts), shape)
    return state


def detrex():
    return made(theirs.detrex(DETREX, MAPS))


def official():
    return made(theirs.official(OFFICIAL, MAPS), one_head=True)


# --- names ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", theirs.CHECKSUMS)
def test_made_up_names_are_those_of_the_real_code(kind):
    assert theirs.checksum(r50(kind)) == theirs.CHECKSUMS[kind]


def r50(kind):
    if kind == "detrex":
        return theirs.detrex()
    backbone = (256, 512, 1024, 2048) if kind.endswith("5scale") else (512, 1024, 2048)
    return theirs.official(theirs.Sizes(classes=91, labels=92, backbone=backbone))


@functools.cache
def zoo_model(name, *changes):
    return instantiate(config(f"aitod/{name}", changes).model)


@pytest.mark.parametrize(
    ("kind", "name", "classes", "shared"),
    [
        ("detrex", "dino_r50_4scale_12e", 80, False),
        ("official_4scale", "dino_r50_4scale_12e", 91, True),
        ("official_5scale", "dino_r50_5scale_12e", 80, True),
    ],
)
def test_r50_models_of_the_zoo_take_every_tensor(kind, name, classes, shared):
    """With COCO's classes nothing is left out and nothing keeps its initial value."""
    changes = [f"model.num_classes={classes}", f"model.decoder.shared_heads={str(shared).lower()}"]
    model = zoo_model(name, *changes)
    given = {key: torch.zeros(()).expand(shape) for key, shape in r50(kind).items()}
    imported = import_weights(model, given)
    assert not imported.left_out
    assert not imported.initial
    assert {key: value.shape for key, value in imported.state.items()} == {
        key: value.shape for key, value in model.state_dict().items()
    }
    meant = ["model.temperature=10000.0", "model.position_offset=-0.5"] if kind == "detrex" else []
    units = ["selection.base_cells", "selection.delta_unit", "decoder.delta_unit", "cell_unit"]
    assert imported.overrides == [*(f"model.{key}=null" for key in units), *meant]


@pytest.mark.slow
def test_swin_models_of_the_zoo_take_every_tensor():
    module = pytest.importorskip("detectron2.modeling.backbone.swin")  # not in the release of 2021
    names = {name: tuple(x.shape) for name, x in module.SwinTransformer(out_indices=(1, 2, 3)).state_dict().items()}
    shapes = theirs.official(theirs.Sizes(classes=91, labels=92, backbone=(192, 384, 768)), names)
    given = {key: torch.zeros(()).expand(shape) for key, shape in shapes.items()}
    model = zoo_model("dino_swin_t_4scale_12e", "model.num_classes=80")
    imported = import_weights(model, given)
    assert set(imported.left_out.values()) == {"it follows from the size of the windows"}
    assert len(imported.left_out) == 12
    assert not imported.initial
    assert {key: value.shape for key, value in imported.state.items()} == {
        key: value.shape for key, value in model.state_dict().items()
    }


# Some places by hand: ours, detrex's, the official one's.
PLACES = [
    ("level_embed", "transformer.level_embeds", "transformer.level_embed"),
    ("selection.content.weight", "transformer.tgt_embed.weight", "transformer.tgt_embed.weight"),
    ("backbone.backbone.levels.1.weight", "backbone.levels.1.weight", "backbone.0.levels.1.weight"),
    ("backbone.neck.same.1.0.weight", "neck.convs.1.conv.weight", "input_proj.1.0.weight"),
    ("backbone.neck.same.1.1.bias", "neck.convs.1.norm.bias", "input_proj.1.1.bias"),
    ("backbone.neck.coarser.0.0.bias", "neck.extra_convs.0.conv.bias", "input_proj.2.0.bias"),
    ("encoder.layers.0.norm.weight", "{e}.norms.0.weight", "{e}.norm1.weight"),
    ("encoder.layers.0.attention.value_proj.bias", "{e}.attentions.0.value_proj.bias", "{e}.self_attn.value_proj.bias"),
    ("encoder.layers.0.feed_forward.inner.0.weight", "{e}.ffns.0.layers.0.0.weight", "{e}.linear1.weight"),
    ("encoder.layers.0.feed_forward.inner.3.bias", "{e}.ffns.0.layers.1.bias", "{e}.linear2.bias"),
    ("encoder.layers.0.feed_forward.norm.bias", "{e}.norms.1.bias", "{e}.norm2.bias"),
    (
        "decoder.layers.1.self_attention.in_proj_weight",
        "{d}.attentions.0.attn.in_proj_weight",
        "{d}.self_attn.in_proj_weight",
    ),
    (
        "decoder.layers.1.cross_attention.output_proj.weight",
        "{d}.attentions.1.output_proj.weight",
        "{d}.cross_attn.output_proj.weight",
    ),
    ("decoder.layers.1.norms.0.weight", "{d}.norms.0.weight", "{d}.norm2.weight"),  # after self-attention
    ("decoder.layers.1.norms.1.weight", "{d}.norms.1.weight", "{d}.norm1.weight"),  # after cross-attention
    ("decoder.layers.1.feed_forward.norm.weight", "{d}.norms.2.weight", "{d}.norm3.weight"),
    ("decoder.box_heads.0.layers.2.weight", "bbox_embed.0.layers.2.weight", "bbox_embed.0.layers.2.weight"),
    ("selection.box_head.layers.2.bias", "bbox_embed.2.layers.2.bias", "transformer.enc_out_bbox_embed.layers.2.bias"),
    ("selection.enc_output.1.weight", "transformer.enc_output_norm.weight", "transformer.enc_output_norm.weight"),
]


@pytest.mark.parametrize(("given", "column", "shared"), [(detrex, 1, False), (official, 2, True)])
def test_places_by_hand_and_nothing_lost(given, column, shared, tmp_path):
    given, model = given(), build(shared=shared)
    imported = import_weights(model, given)
    for place in PLACES:
        name = place[column].format(e="transformer.encoder.layers.0", d="transformer.decoder.layers.1")
        assert torch.equal(imported.state[place[0]], given[name]), place
    assert not imported.left_out
    assert not imported.initial
    write_checkpoint(tmp_path / "w.pth", imported.state)
    load_weights(model, tmp_path / "w.pth")
    assert all(torch.equal(model.state_dict()[key], value) for key, value in imported.state.items())
    # every tensor of the file is somewhere in the model, whole or its rows of COCO's classes
    values = list(imported.state.values())
    for name, value in given.items():
        rows = value[list(COCO_IDS)] if len(value) in (91, 92) else value
        assert any(v.shape == rows.shape and torch.equal(v, rows) for v in values), name


def test_a_head_for_each_layer():
    imported = import_weights(build(shared=False), detrex())
    for i in range(2):
        assert torch.equal(imported.state[f"decoder.class_heads.{i}.bias"], detrex()[f"class_embed.{i}.bias"])
    # shared ones of the official code are the same for all layers
    spread = import_weights(build(shared=False), official()).state
    assert torch.equal(spread["decoder.box_heads.0.layers.1.bias"], spread["decoder.box_heads.1.layers.1.bias"])
    with pytest.raises(CheckpointError, match=r"decoder\.class_heads\.1.*model\.decoder\.shared_heads=false"):
        import_weights(build(shared=True), detrex())


def test_the_resnet_of_torchvision_computes_what_detectron2s_does():
    """Strides lie in the 3×3 convolutions, batch norms are frozen with the same ε."""
    torch.manual_seed(0)
    given = torchvision.models.resnet50(norm_layer=torchvision.ops.FrozenBatchNorm2d)
    for name, value in given.named_buffers():
        value.copy_(torch.rand_like(value) * 0.4 + (0.8 if name.endswith(("weight", "running_var")) else -0.2))
    body = torchvision.models._utils.IntermediateLayerGetter(given, {f"layer{i}": f"res{i + 1}" for i in (2, 3, 4)})
    own = instantiate(config("aitod/dino_r50_4scale_12e").model.backbone.backbone)
    state = {}
    for name, value in body.state_dict().items():
        place = own_name("official", f"backbone.0.body.{name}", num_layers=6, num_projected=3)
        state[place.removeprefix("backbone.backbone.")] = value
    own.load_state_dict(state, strict=True)
    image = torch.randn(1, 3, 70, 90, dtype=torch.float64)
    with torch.no_grad():
        maps, expected = own.double()(image), body.double()(image)
    assert maps.keys() == expected.keys()
    for name in maps:
        torch.testing.assert_close(maps[name], expected[name], rtol=1e-9, atol=1e-9)


# --- classes and queries -------------------------------------------------------------------------------------------


def test_rows_of_coco_by_its_category_ids():
    """COCO has no category 12, so that the twelfth class is 13; the 80th is 90."""
    assert len(COCO_IDS) == 80
    assert COCO_IDS[:12] == (1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 13)
    assert (COCO_IDS[79], COCO_IDS[0]) == (90, 1)
    given, imported = official(), import_weights(build(80), official())
    bias, labels = given["class_embed.0.bias"], given["label_enc.weight"]
    assert torch.equal(imported.state["decoder.class_heads.0.bias"][[0, 11, 79]], bias[[1, 13, 90]])
    assert torch.equal(imported.state["denoising.label_embedding.weight"][11], labels[13])
    assert "80 of the 91 rows of each class head are the model's classes" in imported.notes
    all_rows = import_weights(build(91), given)
    assert torch.equal(all_rows.state["selection.class_head.bias"], given["transformer.enc_out_class_embed.bias"])
    assert torch.equal(all_rows.state["denoising.label_embedding.weight"], labels[:91])


@pytest.mark.parametrize(("given", "shared", "count"), [(detrex, False, 80), (official, True, 91)])
def test_other_classes_keep_their_initial_heads(given, shared, count, tmp_path):
    model = build(8, shared=shared)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    imported = import_weights(model, given())
    assert imported.initial == [
        name for name in before if "class_head" in name or name == "denoising.label_embedding.weight"
    ]
    assert set(imported.left_out.values()) == {f"it is for {count} classes, and the model has 8"}
    write_checkpoint(tmp_path / "w.pth", imported.state)
    TinyCheckpointer(model, save_dir=str(tmp_path)).load(str(tmp_path / "w.pth"))
    after = model.state_dict()
    assert all(torch.equal(after[name], before[name]) for name in imported.initial)
    assert all(torch.equal(after[name], value) for name, value in imported.state.items())
    assert torch.equal(after["decoder.box_heads.0.layers.2.bias"], given()["bbox_embed.0.layers.2.bias"])


@pytest.mark.parametrize(("queries", "fitted"), [(3, "cut"), (7, None), (12, "repeated")])
def test_content_queries_of_another_number(queries, fitted):
    imported, given = import_weights(build(queries=queries), official()), official()["transformer.tgt_embed.weight"]
    content = imported.state["selection.content.weight"]
    assert torch.equal(content, torch.cat((given, given))[:queries])
    told = [note for note in imported.notes if "content queries" in note]
    assert told == ([] if fitted is None else [f"the model's {queries} content queries are the weights' 7, {fitted}"])


# --- what the model has besides, or lacks --------------------------------------------------------------------------


def test_parts_that_dino_lacks_keep_their_initial_values():
    model = build()
    model.density, model.routing = nn.Linear(2, 2), nn.Linear(2, 2)  # stand-ins
    imported = import_weights(model, official())
    assert imported.initial == ["density.weight", "density.bias", "routing.weight", "routing.bias"]


def test_a_model_without_denoising_leaves_the_labels_out():
    imported = import_weights(build(denoising=False), official())
    assert imported.left_out == {"label_enc.weight": "the model has no denoising"}


def test_counters_and_half_precision():
    given = {name: value.half() for name, value in official().items()}
    given["backbone.0.bn1.num_batches_tracked"] = torch.tensor(5)
    imported = import_weights(build(), given)
    assert list(imported.left_out) == ["backbone.0.bn1.num_batches_tracked"]
    assert {value.dtype for value in imported.state.values()} == {torch.float32}


@pytest.mark.parametrize("prefix", ["backbone.", "backbone.0."])
def test_swin_of_detectron2(prefix):
    """Both implementations have Detectron2's names for it; six channels a level here instead of 96."""
    module = pytest.importorskip("detectron2.modeling.backbone.swin")  # not in the release of 2021
    swin = module.SwinTransformer(embed_dim=6, depths=(1, 1), num_heads=(1, 1), window_size=2, out_indices=(0, 1))
    names = {name: tuple(value.shape) for name, value in swin.state_dict().items()}
    shared = prefix == "backbone.0."
    if shared:
        given = made(theirs.official(OFFICIAL, names), one_head=True)
    else:
        given = made(theirs.detrex(DETREX, names))
    imported = import_weights(build(body=swin, levels=("p0", "p1"), shared=shared), given)
    assert not imported.initial
    assert not imported.left_out
    name = "layers.0.blocks.0.attn.qkv.weight"
    assert torch.equal(imported.state[f"backbone.backbone.{name}"], given[prefix + name])

    # timm's Swin, which the configs have: every tensor has its place, but for indices that it works out
    own = timm_swin(out_norm=True)
    imported = import_weights(build(body=own, levels=("res2", "res3"), shared=shared), given)
    assert not imported.initial
    indices = [f"{prefix}layers.{i}.blocks.0.attn.relative_position_index" for i in (0, 1)]
    assert imported.left_out == dict.fromkeys(indices, "it follows from the size of the windows")
    assert {key.removeprefix("backbone.backbone.") for key in imported.state if ".backbone." in key} == set(
        own.state_dict()
    )
    merged = imported.state["backbone.backbone.body.layers_1.downsample.reduction.weight"]
    assert torch.equal(merged, given[f"{prefix}layers.0.downsample.reduction.weight"])
    assert torch.equal(imported.state["backbone.backbone.out_norms.res3.bias"], given[f"{prefix}norm1.bias"])
    with pytest.raises(CheckpointError, match=r"no place.*out_norms\.res2.*a Swin.*backbone\.backbone\.out_norm=true"):
        import_weights(build(body=timm_swin(out_norm=False), levels=("res2", "res3"), shared=shared), given)
    with pytest.raises(CheckpointError, match=r"patch_embed.*Their backbone is a Swin, as in aitod/dino_swin"):
        import_weights(build(shared=shared), given)


def timm_swin(*, out_norm):
    """The first two stages, with the sizes of that test."""
    sizes = {"embed_dim": 6, "depths": (1, 1, 1, 1), "num_heads": (1, 1, 1, 1), "window_size": 2}
    name = "swin_tiny_patch4_window7_224"
    return TimmBackbone(name, out_features=["res2", "res3"], out_norm=out_norm, **sizes)


# --- what is refused -----------------------------------------------------------------------------------------------


def refused(change, match, **settings):
    given = official()
    change(given)
    model = build(**settings)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(CheckpointError, match=match):
        import_weights(model, given)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_what_has_no_place_is_refused():
    refused(
        lambda w: w.update({"transformer.two_stage_wh_embedding.weight": torch.zeros(1, 2)}), "have no place.*wh_emb"
    )
    refused(lambda w: w.update({"backbone.0.levels.2.weight": torch.zeros(1)}), r"no place in the model.*levels\.2")
    refused(
        lambda w: w.pop("transformer.decoder.norm.bias"), r"1 tensors of the model are missing \(decoder\.norm\.bias"
    )
    refused(lambda w: w.pop("transformer.level_embed"), "no weights of DINO as detrex")
    refused(lambda w: w.update({"class_embed.1.bias": torch.zeros(91)}), "must be the same tensor, and differ")
    refused(
        lambda w: w.update({"transformer.decoder.norm.bias": torch.zeros(31)}), r"norm\.bias is \(31,\), not \(32,\)"
    )
    refused(lambda w: w.update({"transformer.level_embed": torch.zeros(())}), "0 dimensions, which is wrong")
    refused(lambda w: w.update({"label_enc.weight": torch.zeros(9, 32)}), r"label_embedding\.weight is \(9, 32\), not")
    refused(lambda w: w.update({"class_embed.1.bias": torch.zeros(())}), "must be the same tensor, and differ")
    refused(lambda w: w.update({"bbox_embed.last.bias": torch.zeros(4)}), "have no place")
    refused(lambda w: w.clear(), "of 0 tensors")


def test_weights_of_other_sizes_are_refused_with_their_settings():
    shapes = theirs.official(theirs.Sizes(classes=91, labels=92, **SMALL | {"encoder": 3, "hidden": 16}), MAPS)
    with pytest.raises(CheckpointError, match=r"model\.encoder\.num_layers=3 model\.encoder\.feedforward_dim=16"):
        import_weights(build(), made(shapes, one_head=True))
    shapes = theirs.official(theirs.Sizes(classes=91, labels=92, **SMALL | {"extra": 2}), MAPS)
    with pytest.raises(CheckpointError, match=r"model\.encoder\.num_levels=4.*five levels need a 5scale config"):
        import_weights(build(), made(shapes, one_head=True))


def test_own_weights_are_told():
    with pytest.raises(CheckpointError, match="weights of d2tiny already"):
        import_weights(build(), build().state_dict())


def test_what_is_not_loaded_is_told_by_common_prefixes(caplog):
    """A line for what starts new, a line for what has no place, and none for a module that has two names."""
    model = nn.ModuleDict({"body": nn.Linear(2, 2), "neck": nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 2))})
    model["twin"], model["head"] = model["body"], nn.ModuleDict({"one": nn.Linear(2, 1), "two": nn.Linear(2, 1)})
    names = ("body.weight", "body.bias", "head.two.weight", "head.two.bias")
    weights = {name: model.state_dict()[name] for name in names} | {
        "fc.weight": torch.ones(1),
        "fc.bias": torch.ones(1),
    }
    checkpointer = TinyCheckpointer(model)
    with caplog.at_level("WARNING"):
        checkpointer._apply("x.pth", {"model": weights})
    assert caplog.messages == [
        "Not in the weights, keeps initial values: neck, head.one.",
        "In the weights, but not in the model: fc.",
    ]


def test_prefixes_that_only_some_names_have():
    others = ["a.b.c", "a.d.x", "e"]
    assert common_prefixes(["a.b.f.1", "a.b.f.2", "a.g", "h.i", "h.j", "a.b"], others) == ["a.b.f", "a.g", "h", "a.b"]
