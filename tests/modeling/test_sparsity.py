"""Sparse encoders: which tokens are updated, and that nothing else changes."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from d2tiny.modeling.transformer import DeformableEncoder, Tokens, TokenSparsity
from d2tiny.modeling.transformer.sparsity import token_index
from tests.helpers.images import item
from tests.helpers.models import settle, small, step

SIZES = ((8, 12), (4, 6), (2, 3))


def tokens(batch=2, padded=False):
    torch.manual_seed(0)
    count = sum(h * w for h, w in SIZES)
    padding = torch.zeros(batch, count, dtype=torch.bool)
    ratios = torch.ones(batch, 3, 2)
    if padded:  # the last image is half as wide
        parts = [(torch.arange(w) >= w / 2).repeat(h) for h, w in SIZES]
        padding[-1], ratios[-1, :, 0] = torch.cat(parts), torch.tensor([0.5, 0.5, 1 / 3])
    features = torch.randn(batch, count, 16)
    return Tokens(features, torch.randn(batch, count, 16), padding, SIZES, ratios, padded)


def encoder(**settings):
    torch.manual_seed(1)
    made = DeformableEncoder(
        embed_dim=16, num_layers=3, num_heads=2, num_levels=3, num_points=2, feedforward_dim=32, **settings
    )
    for layer in made.layers:  # else all queries sample alike
        nn.init.normal_(layer.attention.sampling_offsets.weight, std=0.3)
        nn.init.normal_(layer.attention.attention_weights.weight, std=0.3)
    return made


def test_choice_by_hand():
    """One cell over the threshold: with its neighbours on the two fine levels, and the whole coarse one."""
    density = torch.zeros(1, 8, 12)
    density[0, 1, 4], density[0, 7, 0] = 0.02, 0.005
    given = tokens(1)
    chosen = TokenSparsity(threshold=0.01, dilation=1, dense_from=2).choose(density, given)
    finest, middle, coarse = (m[0, 0] for m in given.maps(chosen[..., None].float()))
    assert finest.nonzero().tolist() == [[y, x] for y in (0, 1, 2) for x in (3, 4, 5)]
    assert middle.nonzero().tolist() == [[y, x] for y in (0, 1) for x in (1, 2, 3)]
    assert coarse.all()
    alone = TokenSparsity(threshold=0.01, dilation=0, dense_from=3).choose(density, given)
    assert alone.sum() == 3
    truth = [torch.zeros(8, 12)]
    truth[0][7, 11] = 0.1
    taught = TokenSparsity(threshold=0.01, dilation=0, dense_from=3, decoys=0).choose(density, given, truth)
    assert taught.sum() == 6, "objects are chosen in training"
    torch.manual_seed(0)
    beside = TokenSparsity(threshold=0.01, dilation=0, dense_from=3, decoys=2).choose(density, given, truth)
    assert 6 < beside.sum() <= 6 * 3 and (beside | ~taught).all(), "and as many places without one"
    assert not density[0, 7, 11], "the prediction stays what it is"
    assert TokenSparsity(threshold=0.0).choose(density, given).all()


def test_objects_of_which_the_density_is_not_sure_are_updated():
    """One that is sure has 0.28 objects a cell; a hundredth of that is enough, a fresh head's 6e-6 are not."""
    density, given = torch.full((1, 8, 12), 6e-6), tokens(1)
    density[0, 1, 4] = 0.0028
    finest, middle, _ = (m[0, 0] for m in given.maps(TokenSparsity().choose(density, given)[..., None].float()))
    assert finest.sum() == 9 and finest[1, 4]
    assert middle.sum() == 6 and middle[0, 2]


def test_index_of_a_mask():
    mask = torch.tensor([[True, False, True, True], [False, True, False, False]])
    assert token_index(mask).tolist() == [[0, 2, 3], [1, 4, 4]]


@pytest.mark.parametrize("padded", [False, True])
def test_all_tokens_are_the_dense_encoder_bit_for_bit(padded):
    given, dense, sparse = tokens(padded=padded), encoder(), encoder(sparsity=TokenSparsity(threshold=0.0))
    choice = sparse.sparsity.choose(torch.zeros(2, 8, 12), given)
    assert torch.equal(choice, ~given.key_padding_mask)
    valid = ~given.key_padding_mask
    assert torch.equal(sparse(given, choice)[valid], dense(given)[valid])
    assert torch.equal(sparse(given, None), dense(given))


@pytest.mark.parametrize("every", [1, 3])
def test_chosen_tokens_are_updated_and_others_stay(every):
    """In one layer chosen rows equal those of the dense layer, whatever their number in other images."""
    given, made = tokens(), encoder(sparsity=TokenSparsity(finest_every=every))
    mask = torch.rand(2, 126) < torch.tensor([[0.3], [0.7]])
    made.layers = made.layers[:1]
    out, dense = made(given, mask), encoder().layers[0]
    full = dense(given.features, given, given.per_level(given.reference_points))
    updated = mask.clone()
    if every == 3:
        updated[:, : 8 * 12] = False  # the first layer of a block leaves the finest level alone
    torch.testing.assert_close(out[updated], full[updated])
    assert torch.equal(out[~updated], given.features[~updated])


def test_gradients_equal_those_of_a_loop():
    """Unused entries of shorter images take no part: the gradient is that of each image alone."""
    given, made = tokens(), encoder(sparsity=TokenSparsity())
    mask = torch.rand(2, 126) < torch.tensor([[0.2], [0.8]])
    made(given, mask).square().sum().backward()
    together = {n: p.grad.clone() for n, p in made.named_parameters()}
    made.zero_grad()
    for i in range(2):
        alone = Tokens(
            given.features[i : i + 1], given.pos_embed[i : i + 1], given.key_padding_mask[i : i + 1], SIZES,
            given.valid_ratios[i : i + 1], False,
        )  # fmt: skip
        made(alone, mask[i : i + 1]).square().sum().backward()
    for name, p in made.named_parameters():
        torch.testing.assert_close(p.grad, together[name], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("checkpointing", [False, True])
def test_a_sparse_model_trains_and_is_dino_if_all_tokens_are_chosen(checkpointing):
    """Tokens follow the objects in training; with a threshold of 0 detections are those of the dense model."""
    sparse = small("scalebridge_r18", density__source="neck", encoder__sparsity=None).eval()
    sparse.encoder.sparsity, sparse.encoder.checkpointing = TokenSparsity(threshold=0.0), checkpointing
    settle(sparse)
    image = {"image": torch.randint(0, 255, (3, 96, 96), dtype=torch.uint8)}
    with torch.no_grad():
        chosen = sparse([image])[0]["instances"]
        sparse.encoder.sparsity = None
        dense = sparse([image])[0]["instances"]
    assert torch.equal(chosen.scores, dense.scores)
    assert torch.equal(chosen.pred_boxes.tensor, dense.pred_boxes.tensor)
    sparse.encoder.sparsity = TokenSparsity()
    step(sparse, [item([[10, 10, 18, 17], [30, 40, 36, 47]]), item([])])


def test_with_all_tokens_it_is_plain_dino_bit_for_bit():
    """Not only itself without sparsity: the usual selection of queries, alone and in a batch with padding."""
    plain = settle(small("dino_lite0")).eval()
    sparse = small("dino_lite0_sparse", encoder__sparsity__threshold=0.0).eval()
    missing, unexpected = sparse.load_state_dict(plain.state_dict(), strict=False)
    assert not unexpected and all(key.startswith("density.") for key in missing)
    images = [{"image": torch.randint(0, 255, (3, h, w), dtype=torch.uint8)} for h, w in ((96, 128), (70, 90))]
    with torch.no_grad():
        for batch in ([images[0]], images):
            for a, b in zip(plain(batch), sparse(batch), strict=True):
                assert torch.equal(a["instances"].scores, b["instances"].scores)
                assert torch.equal(a["instances"].pred_boxes.tensor, b["instances"].pred_boxes.tensor)


def test_batches_of_different_sizes():
    """Beside a larger image, too, a model that chooses all tokens is the dense one; it trains on such a batch."""
    model = settle(small("scalebridge_r18", density__source="neck")).eval()
    images = [{"image": torch.randint(0, 255, (3, h, w), dtype=torch.uint8)} for h, w in ((96, 128), (70, 90))]
    model.encoder.sparsity = TokenSparsity(threshold=0.0)
    with torch.no_grad():
        chosen = [r["instances"] for r in model(images)]
        model.encoder.sparsity = None
        dense = [r["instances"] for r in model(images)]
    for a, b in zip(chosen, dense, strict=True):
        assert torch.equal(a.scores, b.scores)
        assert torch.equal(a.pred_boxes.tensor, b.pred_boxes.tensor)
    model.encoder.sparsity = TokenSparsity()
    step(model, [item([[10, 10, 18, 17]], (96, 128)), item([[5, 5, 9, 9]], (70, 90))])


def test_settings_are_checked():
    with pytest.raises(ValueError, match="finest_every"):
        TokenSparsity(finest_every=0)
    for wrong in ({"finest_every": 2}, {"dense_from": 3}):
        with pytest.raises(ValueError, match="must divide num_layers=3"):
            encoder(sparsity=TokenSparsity(**wrong))
    model = small("scalebridge_r18")
    with pytest.raises(ValueError, match="source='neck'"):
        type(model)(
            backbone=model.backbone, in_features=model.head_in_features, num_classes=model.num_classes,
            encoder=encoder_like(model), selection=model.selection, decoder=model.decoder, criterion=model.criterion,
            pixel_mean=[0, 0, 0], pixel_std=[1, 1, 1], embed_dim=model.level_embed.shape[1],
        )  # fmt: skip


def encoder_like(model):
    model.encoder.sparsity = TokenSparsity()
    return model.encoder
