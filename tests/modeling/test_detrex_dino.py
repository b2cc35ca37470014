"""Plain DINO is detrex's DINO: numbers of its own code on a small model, with the same weights through the importer.

The numbers, and what was changed in detrex for them, are in ``tests/reference/detrex_dino.json``.
"""

from __future__ import annotations

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
from tests.reference import detrex_dino as case

THEIRS = case.load()
pytestmark = pytest.mark.xdist_group("detrex_dino")


def build(**settings):
    """Plain DINO of the case's sizes: every part in the form of the paper."""
    s = case.SIZES
    size = {"embed_dim": s.channels, "num_heads": s.heads, "num_levels": s.levels, "feedforward_dim": s.hidden}
    kinds = {"num_classes": s.classes, "embed_dim": s.channels}
    levels = ["res3", "res4", "res5"]
    neck = ChannelMapper(in_features=levels, in_channels=s.backbone, channels=s.channels, mask_padding=False)
    given = {
        "temperature": 10000.0,
        "position_offset": -0.5,
        "max_detections": case.DETECTIONS,
        "pixel_mean": [123.675, 116.28, 103.53],
        "pixel_std": [58.395, 57.12, 57.375],
    } | settings
    return TinyDINO(
        backbone=NeckedBackbone(backbone=case.backbone(), neck=neck),
        in_features=[f"m{i}" for i in range(s.levels)],
        encoder=DeformableEncoder(num_layers=s.encoder, **size),
        selection=QuerySelection(num_queries=s.queries, base_cells=None, delta_unit=None, **kinds),
        decoder=DINODecoder(num_layers=s.decoder, num_classes=s.classes, shared_heads=False, delta_unit=None, **size),
        denoising=Denoising(
            num_denoising=case.DENOISING["number"],
            label_noise_ratio=case.DENOISING["label_noise_ratio"],
            box_noise_scale=case.DENOISING["box_noise_scale"],
            **kinds,
        ),
        criterion=DINOCriterion(matcher=HungarianMatcher()),
        **kinds,
        **given,
    )


@pytest.fixture(scope="module")
def model():
    model = build()
    imported = import_weights(model, case.weights())
    assert not imported.left_out
    assert not imported.initial
    assert not imported.overrides
    model.load_state_dict(imported.state, strict=True)
    return model


@pytest.fixture(scope="module")
def ours(model):
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
    with pytest.MonkeyPatch.context() as patch, EventStorage(0):
        patch.setattr(model.criterion, "encoder_losses", criterion)
        with case.fixed_noise(_patching(patch)):
            seen["losses"] = model(case.batch())
    for hook in hooks:
        hook.remove()
    model.zero_grad()
    sum(seen["losses"].values()).backward()
    seen["outputs"] = seen["outputs"].split(seen["outputs"].pred_logits.shape[2] - case.SIZES.queries)[1]
    return seen


def _patching(patch):
    """``monkeypatch.setattr`` as a context manager."""
    from contextlib import contextmanager

    @contextmanager
    def attribute(owner, name, value):
        patch.setattr(owner, name, value)
        yield

    return attribute


def same(name, values, expected, *, rel=1e-5):
    """Norm, and product with fixed values as a share of the norm, equal those of detrex."""
    norm, product = case.fingerprint(name, values)
    assert norm == pytest.approx(expected[0], rel=rel, abs=1e-7), name
    assert product == pytest.approx(expected[1], abs=rel * (expected[0] + 1e-7)), name


def test_padding_and_memory(ours):
    tokens = ours["tokens"]
    valid = ~tokens.key_padding_mask
    assert valid.sum(1).tolist() == THEIRS["valid_tokens"]
    assert valid[0].all()
    assert not valid[1].all()
    for i, expected in enumerate(THEIRS["memory"]):
        same(f"memory {i}", ours["memory"][i][valid[i]], expected)


def test_predictions_of_encoder_and_decoder(ours):
    for key in ("pred_logits", "pred_boxes"):
        same(key, getattr(ours["enc"], key), THEIRS["encoder"][key])
        layers = getattr(ours["outputs"], key)
        for layer, expected in zip(layers, THEIRS["layers"], strict=True):
            same(key, layer, expected[key])
        np.testing.assert_allclose(layers[-1].detach(), THEIRS["last"][key], atol=3e-6)


def test_the_21_losses(ours):
    losses = {name: float(value.detach()) for name, value in ours["losses"].items()}
    assert losses.keys() == THEIRS["losses"].keys()
    assert len(losses) == 21
    for name, expected in THEIRS["losses"].items():
        assert losses[name] == pytest.approx(expected, rel=2e-6), name
        # the smallest object here is 7 × 25 px: detrex's own ε of 1e-6 changes little
        assert losses[name] == pytest.approx(THEIRS["losses_with_eps"][name], rel=2e-5), name


def test_gradients_of_all_parameters(model, ours):
    gradients = {name: p.grad for name, p in model.named_parameters()}
    sizes = {"num_layers": case.SIZES.decoder, "num_projected": len(case.SIZES.backbone)}
    names = {name: own_name("detrex", name, **sizes) for name in THEIRS["gradients"]}
    assert sorted(names.values()) == sorted(gradients)
    for name, own in names.items():
        same(name, gradients[own], THEIRS["gradients"][name], rel=1e-4)


def test_detections(model):
    model.eval()
    for item, expected in zip(case.batch(), THEIRS["detections"], strict=True):
        with torch.no_grad():
            found = model([item])[0]["instances"]
        np.testing.assert_allclose(found.scores, expected["scores"], atol=2e-6)
        assert found.pred_classes.tolist() == expected["classes"]
        np.testing.assert_allclose(found.pred_boxes.tensor, expected["boxes"], atol=2e-4)


@pytest.mark.parametrize("settings", [{"temperature": 20.0}, {"position_offset": 0.0}])
def test_the_comparison_sees_another_form(model, settings):
    """The memory of another position embedding differs by more than a hundred times what is allowed."""
    other = build(**settings)
    other.load_state_dict(model.state_dict())
    seen = []
    other.encoder.register_forward_hook(lambda _, __, memory: seen.append(memory))
    with torch.no_grad():
        other.eval()(case.batch()[:1])
    norm, product = case.fingerprint("memory 0", seen[0][0])
    expected = THEIRS["memory"][0]
    assert abs(product - expected[1]) > 1e-3 * expected[0] or abs(norm - expected[0]) > 1e-3 * expected[0]
