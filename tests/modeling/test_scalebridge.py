"""Density-guided dynamic queries (DGQ) and routing-enhanced mixture attention (REM) of ScaleBridge-Det."""

from __future__ import annotations

import math
import runpy

import numpy as np
import pytest
import torch
from detectron2.utils.events import EventStorage
from torch import nn
from torch.nn import functional as F

from d2tiny.config import load_config
from d2tiny.modeling.transformer import (
    REM,
    ContextExpert,
    CountClassifier,
    DensityQueries,
    DetailExpert,
    FrozenExpert,
    LocalExpert,
    Proposals,
    QuerySelection,
    SelectedTokens,
    Tokens,
    WideExpert,
    density_target,
    flatten_maps,
)
from d2tiny.modeling.transformer.density_head import density_loss
from d2tiny.modeling.transformer.density_map import count_objects, local_maxima, pool_density
from d2tiny.modeling.transformer.routing import covered_by_tiny
from d2tiny.synthetic import write_dataset
from d2tiny.utils.errors import ConfigError, DatasetError
from tests.helpers import ROOT
from tests.helpers.images import query_targets
from tests.helpers.models import small


@pytest.mark.parametrize("seed", range(4))
def test_density_sums_to_the_number_of_objects(seed):
    """Also at the border, outside, tiny and huge."""
    torch.manual_seed(seed)
    boxes = torch.cat((torch.rand(50, 2) * torch.tensor([40.0, 30.0]) - 1, torch.rand(50, 2) ** 4 * 60), dim=1)
    target = density_target(boxes, (28, 38))
    assert target.shape == (28, 38)
    assert target.min() >= 0
    assert float(target.sum()) == pytest.approx(50, abs=1e-3)
    assert float(density_target(torch.zeros(0, 4), (5, 6)).sum()) == 0


def test_density_of_one_object_by_hand():
    """σ = ¾ at the middle of cell (2, 1): weights exp(−d²/2σ²) up to 3σ = 2¼ cells, normalised along both axes."""
    target = density_target(torch.tensor([[2.5, 1.5, 1.0, 1.0]]), (3, 5))

    def weight(d):
        return math.exp(-0.5 * (d / 0.75) ** 2)

    row = [weight(2), weight(1), 1, weight(1), weight(2)]
    column = [weight(1), 1, weight(1)]
    expected = [[c * r / sum(row) / sum(column) for r in row] for c in column]
    torch.testing.assert_close(target, torch.tensor(expected))


@pytest.mark.parametrize(
    ("objects", "queries"),
    [(0, 300), (9, 300), (10, 500), (99, 500), (100, 900), (499, 900), (500, 1500), (9999, 1500)],
)
def test_number_of_queries_by_bucket(objects, queries):
    assert DensityQueries(embed_dim=32, hidden_dim=32).num_queries(objects) == queries


@pytest.mark.parametrize(("objects", "queries"), [(0, 300), (120, 384), (200, 512), (2000, 1500), (math.inf, 1500)])
def test_number_of_queries_by_line(objects, queries):
    """64 · ⌈(1.5 N + 150) / 64⌉: 120 → 330 / 64 = 5.2 → 6 · 64."""
    assert DensityQueries(embed_dim=32, hidden_dim=32, rule="linear").num_queries(objects) == queries


def toy(batch=2, classes=3, sizes=((8, 8), (4, 4)), channels=32, seed=0):
    torch.manual_seed(seed)
    cells = sum(h * w for h, w in sizes)
    padding = torch.zeros(batch, cells, dtype=torch.bool)
    features = torch.randn(batch, cells, channels)
    tokens = Tokens(features, torch.zeros_like(features), padding, sizes, torch.ones(batch, len(sizes), 2))
    logits = torch.randn(batch, cells, classes)
    return tokens, Proposals(features, logits, torch.full((batch, cells, 4), 0.5), ~padding)


def test_training_has_at_least_a_query_for_each_object():
    dgq = DensityQueries(embed_dim=32, hidden_dim=32, buckets=[5, 10, 20], thresholds=[4, 9]).train()
    density = torch.zeros(2, 8, 8)
    assert dgq.num_queries_of_images(density, [3, 12]) == [5, 20]
    density[0, ::2, ::2] = 1.0  # 16 objects
    density[1] = 0.02  # sums to 1.3 objects
    assert dgq.num_queries_of_images(density, [3, 12]) == [20, 20]
    assert dgq.num_queries_of_images(density, None) == [20, 5]
    dgq.warmup = 10
    assert dgq.num_queries_of_images(density, [3, 12]) == [5, 20]
    dgq.train_queries = 12
    assert dgq.num_queries_of_images(density, [3, 12]) == [12, 20]
    assert dgq.num_queries_of_images(density, None) == [20, 5], "in tests it does not count"
    dgq.train_queries = 300
    assert dgq.num_queries_of_images(density, [3, 12]) == [20, 20], "whoever makes the buckets smaller need not set it"


def test_small_buckets_do_not_leave_objects_without_queries():
    dgq = DensityQueries(embed_dim=32, hidden_dim=32, buckets=[5, 10, 20], thresholds=[8, 100]).train()
    assert dgq.num_queries_of_images(torch.zeros(4, 8, 8), [5, 7, 11, 50]) == [5, 10, 20, 20]


def test_ignore_regions_count_neither_in_the_map_nor_in_the_number():
    """Density in a region costs nothing; elsewhere it does."""
    tokens, _ = toy(batch=1)
    dgq = DensityQueries(embed_dim=32, hidden_dim=32, map_weight=1.0, count_weight=0.1)
    region = [torch.tensor([[0.75, 0.5, 0.5, 1.0]])]  # the right half
    label, box = [torch.tensor([0])], [torch.tensor([[0.25, 0.25, 0.1, 0.1]])]
    plain, ignoring = query_targets(label, box), query_targets(label, box, region)
    right = density_target(box[0] * 8, (8, 8))[None]
    wrong = right.clone()
    wrong[0, :, 4:] += 3.0
    plain, ignoring = dgq.targets(tokens, plain), dgq.targets(tokens, ignoring)
    assert float(dgq.losses(right, plain)["loss_density"]) == pytest.approx(0, abs=1e-6)
    for key, value in dgq.losses(wrong, ignoring).items():
        assert float(value) == pytest.approx(0, abs=0.02), key
        assert float(dgq.losses(wrong, plain)[key]) > 0.1
    peak = right.clone()
    peak[0, 4, 6] = 1.0
    for truth, bias in ((plain, 1.0), (ignoring, 0.0)):
        with EventStorage(0) as storage:
            dgq.log(storage, peak, truth)
            assert storage.latest()["count_bias"][0] == bias
    wrong[0, 7, 0] += 30.0
    assert all(float(v) > 0.1 for v in dgq.losses(wrong, ignoring).values())


def test_density_of_coarse_levels_lies_where_the_finest_has_it():
    """800 px: 200, 100, 50, 25 and 13 cells, the last of 16 of the first."""
    for side in (200, 10, 17, 18, 20, 33, 36, 40):
        sizes = [(side, side)]
        while len(sizes) < 5:
            sizes.append((-(-sizes[-1][0] // 2),) * 2)
        density = torch.zeros(1, side, side)
        y, x = side - 3, side // 7
        density[0, y, x] = density[0, y, y] = 0.5
        for level, (values, (height, width)) in enumerate(zip(pool_density(density, sizes), sizes, strict=True)):
            expected = torch.zeros(1, height, width)
            expected[0, y >> level, x >> level] = expected[0, y >> level, y >> level] = 0.5
            torch.testing.assert_close(values, expected)


def test_count_by_hand():
    """Two local maxima are objects; the slope of one is none, nor is a wide background."""
    density = torch.full((2, 9, 9), 0.02)
    density[0, 2, 2], density[0, 2, 3], density[0, 7, 7] = 0.9, 0.1, 0.06
    assert (local_maxima(density, 0.05) > 0)[0].nonzero()[:, 0].tolist() == [2 * 9 + 2, 7 * 9 + 7]
    assert count_objects(density, 0.05).tolist() == [2, 0]
    assert float(density[1].sum()) > 1.5, "a sum would see them"
    border = density_target(torch.tensor([[4.0, 4.5, 1, 1], [7.5, 2.0, 1, 1]]), (9, 9))  # two cells are equally high
    assert count_objects(border[None], 0.05).tolist() == [2]
    assert count_objects(torch.ones(1, 9, 9), 0.05).tolist() == [1], "a plateau is one object"


def test_density_loss_by_hand():
    """Per object; 0 if exact, and with a gradient of D̂ − D on the logits even where the density is almost 0."""
    target = torch.tensor([0.5, 1.5, 0.0])
    assert float(density_loss(target, target)) == pytest.approx(0, abs=1e-6)
    doubled = density_loss(2 * target, target)
    assert float(doubled) == pytest.approx((2 - 2 * math.log(2)) / 2, abs=1e-6)
    for start in (-12.0, -40.0):
        logits = torch.full((3,), start, requires_grad=True)
        density_loss(F.softplus(logits), target).backward()
        torch.testing.assert_close(logits.grad, -target / 2, atol=1e-4, rtol=1e-4)
    empty = torch.full((3,), 0.2)
    assert float(density_loss(empty, torch.zeros(3))) == pytest.approx(0.6, abs=1e-6)


def test_an_empty_image_has_no_objects_at_first():
    """800² px at stride 4: less than one object, before anything is learned."""
    density = DensityQueries(embed_dim=32, hidden_dim=32).head([torch.randn(1, 32, 200, 200)], None)
    assert 0 < float(density.detach().sum()) < 1


def test_selection_by_hand():
    """Eight queries: two peaks of the map first, then the best tokens, none twice."""
    _, proposals = toy(batch=1)
    dgq = DensityQueries(embed_dim=32, hidden_dim=32, buckets=[8], thresholds=[])
    density = torch.full((1, 8, 8), 0.01)
    density[0, 2, 3], density[0, 6, 6], density[0, 6, 5] = 0.5, 0.9, 0.4  # the last is no peak
    density[0, 0, 7] = 0.02  # a local maximum below the threshold is no object
    chosen = dgq.select(proposals, density)
    assert chosen.token_idx[0, :2].tolist() == [6 * 8 + 6, 2 * 8 + 3]
    assert chosen.is_peak[0].tolist() == [True, True] + [False] * 6
    best = proposals.pred_logits[0].amax(-1).argsort(descending=True).tolist()
    rest = [t for t in best if t not in (54, 19)][:6]
    assert chosen.token_idx[0, 2:].tolist() == rest
    assert not chosen.padding_mask.any()
    dgq.peak_share = 0.125
    assert dgq.select(proposals, density).is_peak[0].tolist() == [True] + [False] * 7


def test_a_weak_maximum_counts_and_starts_no_query():
    """Of the maxima 0.5, 0.9 and 0.1 three are objects, and ask for eight queries, not four; in tests two start one."""
    _, proposals = toy(batch=1)
    density = torch.full((1, 8, 8), 0.01)
    density[0, 2, 3], density[0, 6, 6], density[0, 0, 7] = 0.5, 0.9, 0.1
    settings = {"embed_dim": 32, "hidden_dim": 32, "buckets": [4, 8], "thresholds": [3]}
    three, two = [True] * 3 + [False] * 5, [True] * 2 + [False] * 6
    dgq = DensityQueries(**settings, peak_threshold=0.15)
    assert dgq.select(proposals, density, gt_counts=[3]).is_peak[0].tolist() == three
    assert dgq.eval().select(proposals, density).is_peak[0].tolist() == two
    low = DensityQueries(**settings, peak_threshold=0.0).eval()
    assert low.select(proposals, density).is_peak[0].tolist() == three, "never below that of objects"
    with pytest.raises(ValueError, match=r"at least 0.*'peak_threshold': -0\.1"):
        DensityQueries(**settings, peak_threshold=-0.1)


def test_content_queries_count_without_peaks():
    """However many peaks precede them, the first learned query is the first of the others."""
    _, proposals = toy()
    selection = QuerySelection(num_classes=3, embed_dim=32, num_queries=8, base_cells=2.0)
    is_peak = torch.tensor([[True, True, False, False], [False] * 4])
    chosen = SelectedTokens(torch.arange(4).repeat(2, 1), torch.zeros(2, 4, dtype=torch.bool), is_peak)
    content = selection.initial_queries(proposals, chosen, plain_peaks=True).content
    assert torch.equal(content[0, :2], proposals.features[0, :2])
    assert torch.equal(content[0, 2:], selection.content.weight[:2])
    assert torch.equal(content[1], selection.content.weight[:4])
    content = selection.initial_queries(proposals, chosen, plain_peaks=False).content
    assert torch.equal(content[0], selection.content.weight[:4])


def test_queries_take_the_learned_contents_in_turn():
    """A scene may ask for more queries than any training image; those contents have no gradient in training."""
    _, proposals = toy()
    selection = QuerySelection(num_classes=3, embed_dim=32, num_queries=8, num_contents=3, base_cells=2.0)
    is_peak = torch.tensor([[True] + [False] * 7] * 2)
    chosen = SelectedTokens(torch.arange(8).repeat(2, 1), torch.zeros(2, 8, dtype=torch.bool), is_peak)
    content = selection.initial_queries(proposals, chosen, plain_peaks=True).content
    assert torch.equal(content[0, 1:], selection.content.weight[[0, 1, 2, 0, 1, 2, 0]])
    with pytest.raises(ValueError, match=r"num_contents=0 must be at least 1"):
        QuerySelection(num_classes=3, embed_dim=32, num_contents=0)


def test_configs_learn_every_content_query():
    """Every training image takes at least as many queries as there are contents, whatever bucket a scene asks for."""
    for name in ("quick/dino_lite0_dgq", "hituav/scalebridge_lite0", "aitod/scalebridge_r50_5scale_24e"):
        model = load_config(name).model
        assert model.selection.num_contents == model.density.train_queries <= max(model.density.get("buckets", [1500]))


@pytest.mark.parametrize("count", [0, 3, 20])
def test_a_classifier_chooses_the_number_of_queries(count):
    """It learns the class of an image's number, which decides, and estimates the number by the classes' means."""
    tokens, _ = toy(batch=1)
    classifier = CountClassifier(embed_dim=32, thresholds=[2, 9])
    dgq = DensityQueries(
        embed_dim=32, hidden_dim=32, buckets=[5, 10, 20], thresholds=[2, 9], rule="classes", classifier=classifier
    ).train()
    optimizer = torch.optim.Adam(classifier.parameters(), lr=1e-3)
    density = torch.zeros(1, 8, 8)
    objects = query_targets([torch.zeros(count, dtype=torch.int64)], [torch.rand(count, 4) * 0.2 + 0.3])
    for _ in range(40):
        logits = dgq.classify(tokens.features, tokens)
        loss = dgq.losses(density, dgq.targets(tokens, objects), logits)["loss_count_class"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    logits = dgq.classify(tokens.features, tokens).detach()
    assert dgq.num_queries_of_images(density, None, logits) == [{0: 5, 3: 10, 20: 20}[count]]
    assert float(classifier.expected_count(logits)) == pytest.approx(count, abs=8 if count == 20 else 1.5)


def test_a_classifier_sees_no_padding():
    """The same map alone and in a larger batch, with anything around it."""
    torch.manual_seed(0)
    classifier, x = CountClassifier(embed_dim=16, hidden_dim=32).eval(), torch.randn(1, 16, 12, 12)
    wide, padding = torch.full((1, 16, 20, 24), 7.0), torch.ones(1, 1, 20, 24, dtype=torch.bool)
    wide[..., :12, :12], padding[..., :12, :12] = x, False
    torch.testing.assert_close(classifier(wide, padding), classifier(x, None), atol=1e-5, rtol=1e-5)


def test_errors_of_the_count_are_logged():
    tokens, _ = toy(batch=2)
    dgq = DensityQueries(embed_dim=32, hidden_dim=32)
    density = torch.zeros(2, 8, 8)
    density[0, 2, 2] = density[1, 5, 5] = density[1, 1, 1] = 1.0
    labels = [torch.zeros(2, dtype=torch.int64), torch.zeros(0, dtype=torch.int64)]
    with EventStorage(0) as storage:
        dgq.log(storage, density, dgq.targets(tokens, query_targets(labels, [torch.rand(2, 4), torch.rand(0, 4)])))
        found = {k: v[0] for k, v in storage.latest().items()}
    assert found == {"count_error": 1.5, "count_bias": 0.5}  # 1 for 2, and 2 for none


def test_errors_of_the_classifier_are_logged_beside_them():
    """It says 5 and 12 objects, as the images of each class had on average; there are 2 and none."""
    tokens, _ = toy(batch=2)
    dgq = DensityQueries(
        embed_dim=32, hidden_dim=32, classifier=CountClassifier(embed_dim=32, thresholds=(10, 100, 500))
    )
    dgq.classifier.mean_counts[:2] = torch.tensor([5.0, 12.0])
    labels = [torch.zeros(2, dtype=torch.int64), torch.zeros(0, dtype=torch.int64)]
    truth = dgq.targets(tokens, query_targets(labels, [torch.rand(2, 4), torch.rand(0, 4)]))
    with EventStorage(0) as storage:
        dgq.log(storage, torch.zeros(2, 8, 8), truth, torch.tensor([[99.0, 0, 0, 0], [0, 99.0, 0, 0]]))
        found = {k: v[0] for k, v in storage.latest().items()}
    assert found["class_count_error"] == found["class_count_bias"] == 7.5  # 3 and 12 too many


def see_objects(model):
    """Let the density head find objects in any image, as if it had learned."""
    nn.init.normal_(model.density.head.last.weight, std=0.5)
    nn.init.constant_(model.density.head.last.bias, -3.0)


@pytest.mark.parametrize("plain", [True, False])
def test_initial_boxes_of_peaks(plain):
    """From the box of their cell, or from the encoder's."""
    model = small("scalebridge_r18", density__plain_peaks=plain).eval()
    nn.init.constant_(model.selection.box_head.layers[-1].bias, 0.5)  # the encoder makes boxes larger
    model.density.buckets, model.density.thresholds, model.density.peak_share = [20], [], 1.0
    image = torch.randint(0, 255, (3, 96, 96), dtype=torch.uint8)
    see_objects(model)
    encoded = model._encode(model._preprocess([{"image": image}]), None)
    proposals = model.selection.propose(encoded.memory, encoded.tokens)
    chosen = model.density.select(proposals, encoded.density)
    peaks = chosen.is_peak[0]
    assert peaks.any()
    sides = encoded.queries.reference_boxes[0][:, 2:]
    plain_sides = proposals.boxes[0, chosen.token_idx[0], 2:]
    assert torch.allclose(sides[peaks], plain_sides[peaks], atol=1e-5) == plain
    assert not torch.isclose(sides[~peaks], plain_sides[~peaks], atol=1e-5).any()


def test_selection_pads_and_excludes_invalid_tokens():
    _, proposals = toy()
    proposals.valid_mask[1, 10:] = False
    proposals.pred_logits[1, 10:] = -torch.inf
    dgq = DensityQueries(embed_dim=32, hidden_dim=32, buckets=[30], thresholds=[])
    chosen = dgq.select(proposals, torch.rand(2, 8, 8))
    assert (~chosen.padding_mask).sum(1).tolist() == [30, 10]
    assert sorted(chosen.token_idx[1, :10].tolist()) == list(range(10))
    assert len(set(chosen.token_idx[0].tolist())) == 30


def test_density_head_learns_and_knows_no_padding():
    tokens, _ = toy(batch=1, seed=1)
    torch.manual_seed(0)
    dgq = DensityQueries(embed_dim=32, hidden_dim=32, num_levels=1).train()
    objects = query_targets(
        [torch.zeros(2, dtype=torch.int64)], [torch.tensor([[0.3, 0.3, 0.1, 0.1], [0.8, 0.6, 0.1, 0.1]])]
    )
    optimizer = torch.optim.Adam(dgq.parameters(), lr=5e-3)
    first = None
    for _ in range(150):
        loss = sum(dgq.losses(dgq.predict_density(tokens.features, tokens), dgq.targets(tokens, objects)).values())
        first = first or float(loss)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert float(loss) < 0.05 * first
    assert float(dgq.predict_density(tokens.features, tokens).sum()) == pytest.approx(2, abs=0.3)
    # the same image with padding to the right and below
    wide = torch.zeros(1, 12, 10, 32)
    wide[:, :8, :8] = tokens.features[:, :64].view(1, 8, 8, 32)
    wide[:, 8:], wide[:, :, 8:] = 7.0, -3.0
    padding = torch.ones(1, 12, 10, dtype=torch.bool)
    padding[:, :8, :8] = False
    more = Tokens(wide.view(1, -1, 32), torch.zeros(1, 120, 32), padding.view(1, -1), ((12, 10),), torch.ones(1, 1, 2))
    alone = dgq.predict_density(tokens.features, tokens)
    padded = dgq.predict_density(more.features, more)
    torch.testing.assert_close(padded[:, :8, :8], alone, atol=1e-5, rtol=1e-4)
    assert not padded[:, 8:].any()


def test_target_is_float32_under_autocast():
    torch.manual_seed(0)
    boxes = torch.cat((torch.rand(300, 2) * 40, torch.rand(300, 2) * 4 + 1), dim=1)
    with torch.autocast("cpu", torch.bfloat16):
        target = density_target(boxes, (40, 40))
    assert target.dtype == torch.float32
    assert float(target.sum()) == pytest.approx(300, abs=1e-3)


def test_density_is_summed_in_float32_under_autocast():
    tokens, _ = toy(batch=1)
    dgq = DensityQueries(embed_dim=32, hidden_dim=32)
    nn.init.normal_(dgq.head.last.weight)
    with torch.autocast("cpu", torch.bfloat16):
        density = dgq.predict_density(tokens.features.bfloat16(), tokens)
    assert density.dtype == torch.float32
    assert torch.isfinite(density).all()
    assert not torch.equal(density, density.bfloat16().float()), "it is not rounded to bfloat16"


@pytest.mark.parametrize(
    ("kwargs", "words"),
    [
        ({"rule": "buket"}, "Did you mean 'bucket'"),
        ({"buckets": [10, 5], "thresholds": [3]}, "must rise"),
        ({"buckets": [10, 50], "thresholds": [3, 4]}, "one more"),
        ({"buckets": [10, 50, 90], "thresholds": [9, 4]}, "thresholds .* must rise"),
        ({"peak_share": 2.0}, r"peak_share must be in \[0, 1\], got 2.0"),
        ({"warmup": -1}, r"at least 0, got {'warmup': -1}"),
        ({"train_queries": -1}, r"at least 0, got {'train_queries': -1}"),
        ({"source": "backbone"}, "unknown source"),
        ({"rule": "classes"}, "needs a classifier"),
        ({"threshold": -1.0}, r"at least 0, got {'threshold': -1.0}"),
        ({"map_weight": -1.0}, r"at least 0, got {'map_weight': -1.0}"),
    ],
)
def test_bad_density_settings_are_refused(kwargs, words):
    with pytest.raises(ValueError, match=words):
        DensityQueries(embed_dim=32, hidden_dim=32, **kwargs)


# --- REM -----------------------------------------------------------------------------------------------------------


def rem(channels=32, **kwargs):
    experts = [kind(channels) for kind in (LocalExpert, WideExpert, DetailExpert, ContextExpert)]
    torch.manual_seed(0)
    return REM(experts=experts, embed_dim=channels, num_heads=4, hidden_dim=32, **kwargs)


def maps(channels=32, batch=2, sizes=((12, 16), (6, 8), (3, 4))):
    torch.manual_seed(1)
    levels = [torch.randn(batch, channels, h, w) for h, w in sizes]
    return levels, [torch.zeros(batch, h, w, dtype=torch.bool) for h, w in sizes]


def test_nothing_changes_at_first_and_every_parameter_learns():
    module, (levels, paddings) = rem(), maps()
    out, routing = module(levels, paddings)
    assert all(torch.equal(a, b) for a, b in zip(out, levels, strict=True))
    assert module.names == ["local", "detail", "wide", "context"]
    nn.init.ones_(module.scale)
    out, routing = module(levels, paddings)
    (sum(o.square().sum() for o in out) + sum(routing.losses.values())).backward()
    assert not [n for n, p in module.named_parameters() if p.grad is None]


@pytest.mark.parametrize("topk", [1, 2])
def test_routing_weights(topk):
    """They add up to 1, k of each category are selected, and no category gets less than the minimum of the gate."""
    module, (levels, paddings) = rem(topk=topk, min_gate=0.2), maps()
    _, routing = module(levels, paddings)
    for pi in routing.routing_weights:
        torch.testing.assert_close(pi.sum(1), torch.ones_like(pi[:, 0]))
        for category in pi.split([2, 2], dim=1):
            assert ((category > 0).sum(1) == topk).all()
            assert category.sum(1).min() >= 0.2 - 1e-6
    assert sum(routing.statistics().values()) == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize(("bias", "expected"), [((0.0, 0.0), 1.0), ((30.0, 0.0), 2.0)])
def test_balance_is_one_when_even_and_the_number_of_experts_when_collapsed(bias, expected):
    module, (levels, paddings) = rem(balance_weight=1.0), maps()
    with torch.no_grad():
        module.router[-1].weight.zero_()
        module.router[-1].bias.copy_(torch.tensor([*bias, *bias]))
    _, routing = module(levels, paddings)
    assert float(routing.losses["loss_balance"]) == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize("topk", [1, 2])
def test_mixture_equals_a_slow_loop(topk):
    module, (levels, paddings) = rem(topk=topk).eval(), maps(batch=1, sizes=((2, 3),))
    nn.init.ones_(module.scale)
    nn.init.normal_(module.gate.weight, std=2.0)
    out, routing = module(levels, paddings)
    x = levels[0]
    features = [expert(levels)[0] for expert in module.experts.values()]
    probability, _, gate = module.route(x)
    for i in range(2):
        for j in range(3):
            g = 0.1 + 0.8 * gate[0, :, i, j].softmax(0)
            p = probability[0, :, i, j]
            mixed, shares = torch.zeros(32), torch.zeros(4)
            for c in range(2):
                for m in range(4):
                    scores = []
                    for e in (2 * c, 2 * c + 1):
                        score = math.log(float(p[e])) if p[e] > 0 else -math.inf
                        if topk == 2:
                            q = module.query(x)[0, 8 * m : 8 * m + 8, i, j]
                            score += float(q @ module.key(features[e])[0, 8 * m : 8 * m + 8, i, j]) / math.sqrt(8)
                        scores.append(score)
                    for e, weight in zip((2 * c, 2 * c + 1), torch.tensor(scores).softmax(0), strict=True):
                        value = module.value(features[e]) if topk == 2 else features[e]
                        mixed[8 * m : 8 * m + 8] += g[c] * weight * value[0, 8 * m : 8 * m + 8, i, j]
                        shares[e] += float(g[c] * weight) / 4
            y = module.output(mixed.view(1, 32, 1, 1))[0, :, 0, 0]
            torch.testing.assert_close(out[0][0, :, i, j], x[0, :, i, j] + y, atol=1e-5, rtol=1e-4)
            torch.testing.assert_close(routing.routing_weights[0][0, :, i, j], shares, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("topk", [1, 2])
def test_no_category_ever_has_less_than_its_floor(topk):
    """Whatever attention and gate prefer, in the mixture itself: 0.2 of the tiny experts' features arrive."""
    module, (levels, paddings) = rem(topk=topk, min_gate=0.2).eval(), maps()
    with torch.no_grad():
        module.gate.bias.copy_(torch.tensor([-50.0, 50.0]))
        if module.attends:
            module.key.weight.mul_(100)
            module.query.weight.mul_(100)
    _, routing = module(levels, paddings)
    for shares in routing.routing_weights:
        torch.testing.assert_close(shares[:, :2].sum(1), torch.full_like(shares[:, 0], 0.2))
    x = levels[0]
    values = [torch.full_like(x, float(e < 2)) for e in range(4)]  # what tiny experts say is 1
    probability, _, gate = module.route(x)
    for layer in (module.output, *([module.value] if module.attends else [])):
        layer.weight.data = torch.eye(32)[..., None, None]
    mixed, _ = module._mix(x, values, probability, 0.2 + 0.6 * gate.softmax(1))
    torch.testing.assert_close(mixed, torch.full_like(x, 0.2))


def test_the_gate_learns_where_tiny_objects_are():
    module, (levels, paddings) = rem(scale_weight=1.0).train(), maps(batch=1, sizes=((16, 16), (8, 8)))
    boxes = [torch.tensor([[0.2, 0.2, 0.05, 0.05], [0.7, 0.6, 0.5, 0.5]])]  # 3 px and 32 px of 64 px
    extent = torch.tensor([16.0, 16.0])
    covered = covered_by_tiny(boxes[0], (64, 64), (16, 16), 16.0, extent)
    assert covered.nonzero().tolist() == [[3, 3]]  # the smaller one covers the middle of one cell
    assert covered_by_tiny(boxes[0], (64, 64), (16, 16), 33.0, extent).sum() == 1 + 8 * 8
    point = torch.tensor([[0.21, 0.21, 0.001, 0.001]])
    assert covered_by_tiny(point, (64, 64), (16, 16), 16.0, extent).nonzero().tolist() == [[3, 3]]
    # of an image that ends inside the last cell a share is fewer cells: 0.21 of 14.2
    assert covered_by_tiny(point, (57, 57), (15, 15), 16.0, torch.tensor([14.25, 14.25])).nonzero().tolist() == [[2, 2]]
    optimizer = torch.optim.Adam(module.parameters(), lr=0.02)
    objects = query_targets([torch.zeros(2, dtype=torch.int64)], boxes)
    masks = [torch.zeros(1, side, side, dtype=torch.bool) for side in (16, 8)]
    tokens = flatten_maps(levels, [torch.zeros_like(m) for m in levels], masks, torch.zeros(2, 32), has_padding=False)
    for _ in range(60):
        _, routing = module(levels, paddings)
        loss = module.scale_losses(routing, objects, tokens, [(64, 64)])["loss_scale"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    shares = routing.routing_weights[0][0, :2].sum(0)
    assert shares[3, 3] > 0.8
    assert shares[~covered].mean() < 0.2
    assert rem().scale_losses(routing, objects, tokens, [(64, 64)]) == {}
    everything = query_targets(objects.labels, boxes, [torch.tensor([[0.5, 0.5, 1.0, 1.0]])])
    assert float(module.scale_losses(routing, everything, tokens, [(64, 64)])["loss_scale"]) == 0
    with pytest.raises(ValueError, match="category 'tiny'"):
        REM(experts=[WideExpert(32)], embed_dim=32, num_heads=4, topk=1, scale_weight=0.1)


def test_frozen_experts_never_learn():
    backbone = nn.Sequential(nn.Conv2d(3, 8, 3, stride=4, padding=1), nn.BatchNorm2d(8))

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.body = backbone

        def forward(self, image):
            return {"out": self.body(image)}

    frozen = FrozenExpert(backbone=Net(), in_features=["out"] * 3, in_channels=[8] * 3, embed_dim=32, weights="random")
    module = REM(experts=[LocalExpert(32), frozen], embed_dim=32, num_heads=4, hidden_dim=32, topk=1).train()
    nn.init.ones_(module.scale)
    before = {k: v.clone() for k, v in backbone.state_dict().items()}
    levels, paddings = maps()
    out, _ = module(levels, paddings, torch.randn(2, 3, 48, 64))
    sum(o.sum() for o in out).backward()
    assert all(p.grad is None for p in backbone.parameters())
    assert all(torch.equal(before[k], v) for k, v in backbone.state_dict().items())
    assert frozen.adapters[0][0].weight.grad is not None
    with pytest.raises(ValueError, match="image"):
        module(levels, paddings)


@pytest.mark.parametrize("topk", [1, 2])
def test_padding_changes_nothing(topk):
    """The same maps beside padding, which holds anything, and sizes that do not halve exactly."""
    module = rem(topk=topk).eval()
    nn.init.ones_(module.scale)
    levels, paddings = maps(sizes=((13, 17), (7, 9), (4, 5)))
    wide = []
    for x, (height, width) in zip(levels, ((33, 40), (17, 20), (9, 10)), strict=True):
        right = F.pad(x, (0, width - x.shape[3]), value=9.0)
        wide.append(F.pad(right, (0, 0, 0, height - x.shape[2]), value=-5.0))
    more = [torch.ones(x.shape[0], *x.shape[2:], dtype=torch.bool) for x in wide]
    for padding, level in zip(more, levels, strict=True):
        padding[:, : level.shape[2], : level.shape[3]] = False
    (out, alone), (padded, beside) = module(levels, paddings), module(wide, more)
    for i, x in enumerate(levels):
        rows, columns = x.shape[2:]
        torch.testing.assert_close(padded[i][:, :, :rows, :columns], out[i], atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(
            beside.routing_weights[i][:, :, :rows, :columns], alone.routing_weights[i], atol=1e-4, rtol=1e-3
        )
    for key, value in alone.losses.items():
        torch.testing.assert_close(beside.losses[key], value, atol=1e-5, rtol=1e-4)
    assert beside.statistics() == pytest.approx(alone.statistics(), abs=1e-4)


@pytest.mark.parametrize("topk", [1, 2])
def test_the_router_learns_from_the_task(topk):
    """Not only from the balance loss: the logit of every selected expert gets a gradient from the output."""
    module, (levels, paddings) = rem(topk=topk), maps()
    nn.init.ones_(module.scale)
    out, _ = module(levels, paddings)
    sum((o * torch.randn_like(o)).sum() for o in out).backward()
    for name, parameter in (*module.router.named_parameters(), *module.gate.named_parameters()):
        assert parameter.grad.abs().max() > 1e-3, name


def test_one_expert_is_a_residual():
    module, (levels, paddings) = (
        REM(experts=[LocalExpert(32)], embed_dim=32, num_heads=4, hidden_dim=32, topk=1),
        maps(),
    )
    nn.init.ones_(module.scale)
    out, routing = module(levels, paddings)
    features = LocalExpert.forward(module.experts["local"], levels)
    for x, y, f in zip(levels, out, features, strict=True):
        torch.testing.assert_close(y, x + module.output(f), atol=1e-5, rtol=1e-4)
    assert all((pi == 1).all() for pi in routing.routing_weights)


@pytest.mark.parametrize("kwargs", [{"topk": 0}, {"topk": 3}, {"min_gate": 0.6}, {"scale_weight": -1.0}])
def test_bad_routing_settings_are_refused(kwargs):
    with pytest.raises(ValueError, match="REM"):
        rem(**kwargs)
    with pytest.raises(ValueError, match="different names"):
        REM(experts=[LocalExpert(32), LocalExpert(32)], embed_dim=32, num_heads=4)


def test_the_picture_of_densities_and_experts(tmp_path):
    """Drawn from a model with both parts; a plain one is refused."""
    scope = runpy.run_path(str(ROOT / "tools" / "draw_scalebridge.py"))
    image = np.random.default_rng(0).integers(0, 255, (72, 104, 3)).astype(np.uint8)
    model = small("scalebridge_r18").eval()
    explained = model.explain({"image": torch.from_numpy(image.transpose(2, 0, 1).copy())})
    assert explained.density.shape == (18, 26)
    assert [tuple(level.shape) for level in explained.routing_weights[:2]] == [(4, 18, 26), (4, 9, 13)]
    assert explained.categories == {"tiny": ["local", "detail"], "general": ["wide", "context"]}
    assert float(explained.reference_points[:, 0].max()) <= 104
    picture = scope["draw"](model, image)
    assert picture.shape == (2 * (332 + 46), 3 * 480, 3)  # 72 px of 104 are 332 of 480
    plain = scope["draw"](model, image, blank=True)
    assert plain.shape == picture.shape, "five panels and an empty one"
    marked = scope["draw"](model, image, blank=True, truth=np.array([[52.0, 36.0]]))
    assert (marked[:332, :480] != plain[:332, :480]).any()
    write_dataset(tmp_path, train=1, val=0, height=64, width=64, seed=3)
    centres = scope["_centres"](tmp_path / "instances_train.json", "synthetic_000000.png")
    assert centres.shape[1] == 2
    assert 0 < centres.min() < centres.max() < 64
    with pytest.raises(DatasetError, match=r"no image 'x\.png'"):
        scope["_centres"](tmp_path / "instances_train.json", "x.png")
    assert picture.std() > 10
    with pytest.raises(ConfigError, match="nothing to draw"):
        scope["draw"](small().eval(), image)
