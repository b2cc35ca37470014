"""Plain DINO is detrex's DINO and the official one: numbers of their own code, with the same weights and images.

The numbers, and what was changed in that code for them, are in ``tests/reference/detrex_dino.json`` and
``tests/reference/official_dino.json``. The weights come through the importer.
"""

from __future__ import annotations

from unittest.mock import patch

import numpy as np
import pytest
import torch
from detectron2.utils.events import EventStorage

from d2tiny.engine.import_weights import import_weights
from d2tiny.modeling.assigners import HungarianMatcher
from d2tiny.modeling.meta_arch import TinyDINO
from d2tiny.modeling.meta_arch.dino_names import own_name
from d2tiny.modeling.necks import ChannelMapper, NeckedBackbone
from d2tiny.modeling.transformer import DeformableEncoder, Denoising, DINOCriterion, DINODecoder, QuerySelection
from tests.reference import dino_case as case

SOURCES = ("detrex", "official")
# What is not the same in both: the position embedding, and whether decoder layers have heads of their own.
FORMS = {
    "detrex": {"temperature": 10000.0, "position_offset": -0.5},
    "official": {"temperature": 20.0, "position_offset": 0.0},
}
pytestmark = pytest.mark.xdist_group("other_dino")


def build(source, **settings):
    """Plain DINO of the case's sizes: every part in the form of the paper."""
    s = case.SIZES[source]
    size = {"embed_dim": s.channels, "num_heads": s.heads, "num_levels": s.levels, "feedforward_dim": s.hidden}
    kinds = {"num_classes": s.classes, "embed_dim": s.channels}
    levels = ["res3", "res4", "res5"]
    neck = ChannelMapper(in_features=levels, in_channels=s.backbone, channels=s.channels, mask_padding=False)
    given = {
        "max_detections": case.DETECTIONS,
        "pixel_mean": [123.675, 116.28, 103.53],
        "pixel_std": [58.395, 57.12, 57.375],
    }
    given |= FORMS[source] | settings
    return TinyDINO(
        backbone=NeckedBackbone(backbone=case.backbone(), neck=neck),
        in_features=[f"m{i}" for i in range(s.levels)],
        encoder=DeformableEncoder(num_layers=s.encoder, **size),
        selection=QuerySelection(num_queries=s.queries, base_cells=None, delta_unit=None, **kinds),
        decoder=DINODecoder(
            num_layers=s.decoder,
            num_classes=s.classes,
            shared_heads=source == "official",
            delta_unit=None,
            **size,
        ),
        denoising=Denoising(num_denoising=case.DENOISING[source], label_noise_ratio=0.0, box_noise_scale=1.0, **kinds),
        criterion=DINOCriterion(matcher=HungarianMatcher()),
        **kinds,
        **given,
    )


@pytest.fixture(scope="module", params=SOURCES)
def source(request):
    return request.param


@pytest.fixture(scope="module")
def theirs(source):
    return case.load(source)


@pytest.fixture(scope="module")
def model(source):
    model = build(source)
    imported = import_weights(model, case.weights(source))
    assert not imported.left_out
    assert not imported.initial
    assert not imported.overrides
    model.load_state_dict(imported.state, strict=True)
    return model


@pytest.fixture(scope="module")
def ours(source, model):
    """Losses of a training step, with the outputs of encoder and decoder."""
    seen = {}

    def encoder(_, args, memory):
        seen["tokens"], seen["memory"] = args[0], memory

    def decoder(_, __, out):
        seen["outputs"] = out

    def criterion(predictions, *args):
        seen["enc"] = predictions
        return own(predictions, *args)

    own = model.criterion.encoder_losses
    hooks = [model.encoder.register_forward_hook(encoder), model.decoder.register_forward_hook(decoder)]
    model.train()
    replaced = patch.object(model.criterion, "encoder_losses", criterion)
    with replaced, case.fixed_noise(patch.object), EventStorage(0):
        seen["losses"] = model(case.batch())
    for hook in hooks:
        hook.remove()
    model.zero_grad()
    sum(seen["losses"].values()).backward()
    denoising = seen["outputs"].pred_logits.shape[2] - case.SIZES[source].queries
    seen["outputs"] = seen["outputs"].split(denoising)[1]
    return seen


def same(name, values, expected, *, rel=1e-5):
    """Norm, and product with fixed values as a share of the norm, equal theirs."""
    norm, product = case.fingerprint(name, values)
    assert norm == pytest.approx(expected[0], rel=rel, abs=1e-7), name
    assert product == pytest.approx(expected[1], abs=rel * (expected[0] + 1e-7)), name


def test_padding_and_memory(ours, theirs):
    tokens = ours["tokens"]
    valid = ~tokens.key_padding_mask
    assert valid.sum(1).tolist() == theirs["valid_tokens"]
    assert valid[0].all()
    assert not valid[1].all()
    for i, expected in enumerate(theirs["memory"]):
        same(f"memory {i}", ours["memory"][i][valid[i]], expected)


def test_predictions_of_encoder_and_decoder(ours, theirs):
    for key in ("pred_logits", "pred_boxes"):
        same(key, getattr(ours["enc"], key), theirs["encoder"][key])
        layers = getattr(ours["outputs"], key)
        for layer, expected in zip(layers, theirs["layers"], strict=True):
            same(key, layer, expected[key])
        np.testing.assert_allclose(layers[-1].detach(), theirs["last"][key], atol=3e-6)


def test_the_21_losses(ours, theirs):
    losses = {name: float(value.detach()) for name, value in ours["losses"].items()}
    assert losses.keys() == theirs["losses"].keys()
    assert len(losses) == 21
    for name, expected in theirs["losses"].items():
        assert losses[name] == pytest.approx(expected, rel=5e-6), name
        # the smallest object here is 7 × 25 px: their own ε of 1e-6 changes little
        assert losses[name] == pytest.approx(theirs["losses_with_eps"][name], rel=2e-5), name


def test_gradients_of_all_parameters(source, model, ours, theirs):
    gradients = {name: p.grad for name, p in model.named_parameters()}
    sizes = {"num_layers": case.SIZES[source].decoder, "num_projected": len(case.SIZES[source].backbone)}
    names = {name: own_name(source, name, **sizes) for name in theirs["gradients"]}
    assert sorted(names.values()) == sorted(gradients)
    for name, own in names.items():
        same(name, gradients[own], theirs["gradients"][name], rel=2e-5)


def test_detections(model, theirs):
    model.eval()
    for item, expected in zip(case.batch(), theirs["detections"], strict=True):
        with torch.no_grad():
            found = model([item])[0]["instances"]
        np.testing.assert_allclose(found.scores, expected["scores"], atol=2e-6)
        assert found.pred_classes.tolist() == expected["classes"]
        np.testing.assert_allclose(found.pred_boxes.tensor, expected["boxes"], atol=2e-4)


@pytest.mark.parametrize("settings", [{"temperature": 300.0}, {"position_offset": -0.25}])
def test_the_comparison_sees_another_form(source, model, theirs, settings):
    """The memory of another position embedding differs by more than a hundred times what is allowed."""
    other = build(source, **settings)
    other.load_state_dict(model.state_dict())
    seen = []
    other.encoder.register_forward_hook(lambda _, __, memory: seen.append(memory))
    with torch.no_grad():
        other.eval()(case.batch()[:1])
    norm, product = case.fingerprint("memory 0", seen[0][0])
    expected = theirs["memory"][0]
    assert max(abs(product - expected[1]), abs(norm - expected[0])) > 1e-3 * expected[0]
