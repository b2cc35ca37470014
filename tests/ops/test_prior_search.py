"""The searches that skip priors find the same pairs as computing every score."""

from __future__ import annotations

import math

import pytest
import torch

from d2tiny.ops import block_topk
from d2tiny.ops.block_topk import Blocks
from d2tiny.ops.gaussian import SCORES, Score, get_score
from d2tiny.ops.matches import Matches, max_score_per_gt
from d2tiny.ops.prior_search import above_dense, priors_above, topk_dense, topk_priors


def draw(generator, count, kind):
    """(count, 4) centre, width, height: scattered, on a grid of few sizes, clustered, all equal, or extreme."""
    place = torch.rand(count, 2, generator=generator, dtype=torch.float64) * 500
    size = torch.exp(torch.rand(count, 2, generator=generator, dtype=torch.float64) * 5)
    if kind == "grid":
        place, size = (place / 16).round() * 16, 2.0 ** size.log2().round()
    if kind == "cluster":
        place = place / 100
    if kind == "equal":
        place, size = place * 0 + 40, size * 0 + 9
    if kind == "extreme":
        size[:, 0] *= 40
        place = place * 10 - 2000
    return torch.cat((place, size), dim=1)


def pairs(matches):
    """Pairs with their scores, sorted."""
    return sorted(zip(matches.gt.tolist(), matches.prior.tolist(), matches.score.tolist(), strict=True))


KINDS = ("scattered", "grid", "cluster", "equal", "extreme")


@pytest.mark.parametrize("metric", [*SCORES, "nwd of 3 px", "kld of small priors"])
@pytest.mark.parametrize("kind", KINDS)
def test_blocks_equal_all_pairs(metric, kind):
    """300 cases over the metrics and kinds: same pairs, same scores, bit for bit."""
    for seed in range(6):
        generator = torch.Generator().manual_seed(seed)
        score = get_score("nwd", 3.0) if metric == "nwd of 3 px" else get_score(metric.split()[0])
        if metric == "kld of small priors":
            score = score.with_scaled_priors(0.9)
        priors = draw(generator, (1, 5, 64, 65, 700, 1500)[seed], kind)
        gts = draw(generator, 12, KINDS[seed % 5])
        gts[:3, :] = priors[:3] if len(priors) >= 3 else priors[:1]
        k = (1, 3, 9, 70, 2, 4)[seed]
        for threshold in (0.3, torch.linspace(0.01, 0.9, 12, dtype=torch.float64)):
            found = priors_above(Blocks.from_boxes(priors), gts, score, threshold)
            expected = above_dense(priors, gts, score, threshold)
            assert pairs(Matches.cat(list(found), gts.device)) == pairs(Matches.cat(list(expected), gts.device))
        for over in (-math.inf, score.floor):
            assert pairs(topk_priors(Blocks.from_boxes(priors), gts, score, k, over)) == pairs(
                topk_dense(priors, gts, score, k, over)
            )


def test_scores_at_or_under_over_are_left_out():
    generator = torch.Generator().manual_seed(0)
    priors = draw(generator, 900, "scattered")
    gts = torch.cat((draw(generator, 20, "scattered"), draw(generator, 20, "extreme")))
    iou = get_score("iou")
    found = topk_priors(Blocks.from_boxes(priors), gts, iou, 2)
    expected = topk_dense(priors, gts, iou, 2, floor=0.0)
    assert pairs(found) == pairs(expected)
    assert float(found.score.min()) > 0
    assert bool(torch.isinf(max_score_per_gt(found, len(gts))).any()), "some object must overlap nothing"


@pytest.mark.parametrize("metric", SCORES)
def test_no_prior_surpasses_the_bound(metric):
    """20,000 random blocks of three boxes; the ranges of a single box give its own score, but for rounding."""
    generator = torch.Generator().manual_seed(1)
    score = SCORES[metric]
    gts = draw(generator, 20000, "scattered")
    boxes = torch.stack([draw(generator, 20000, "scattered") for _ in range(3)])
    boxes[..., :2] = gts[:, :2] + (boxes[..., :2] - 250) * torch.rand(20000, 1, generator=generator).double()
    for few in (boxes[:1], boxes):
        low, high = few.amin(dim=0), few.amax(dim=0)
        distance = torch.maximum(low[:, :2] - gts[:, :2], gts[:, :2] - high[:, :2]).clamp(min=0)
        upper = score.upper_bound(*distance.T, low[:, 2], high[:, 2], low[:, 3], high[:, 3], gts[:, 2], gts[:, 3])
        values = torch.stack([score(*(b[:, :2] - gts[:, :2]).T, *b[:, 2:].T, *gts[:, 2:].T) for b in few])
        assert bool((upper * (1 + 1e-9) + 1e-12 >= values).all())
        if len(few) == 1:
            torch.testing.assert_close(upper, values[0], rtol=1e-6, atol=1e-8)


def test_few_blocks_are_searched(monkeypatch):
    """Of 20,000 boxes around the cells of a grid, as a detector refines them, few are scored."""
    generator = torch.Generator().manual_seed(2)
    cell = torch.cartesian_prod(torch.arange(100), torch.arange(200)).double() * 4
    noise = torch.randn(20000, 4, generator=generator, dtype=torch.float64)
    priors = torch.cat((cell + noise[:, :2] * 3, 16 * torch.exp(noise[:, 2:] / 4)), dim=1)
    gts = torch.cat((torch.rand(50, 2, generator=generator).double() * 400, torch.full((50, 2), 12.0).double()), dim=1)
    scored = 0
    score_blocks = block_topk._score_blocks

    def counted(blocks, gts, score, g, b):
        nonlocal scored
        scored += len(g) * blocks.boxes.shape[1]
        return score_blocks(blocks, gts, score, g, b)

    monkeypatch.setattr(block_topk, "_score_blocks", counted)
    topk_priors(Blocks.from_boxes(priors), gts, get_score("kld"), 3)
    assert scored < 0.1 * len(priors) * len(gts)


def test_nothing_to_find():
    none = torch.zeros(0, 4, dtype=torch.float64)
    some = torch.tensor([[5.0, 5, 4, 4]], dtype=torch.float64)
    for priors, gts in ((none, some), (some, none), (none, none)):
        assert len(topk_priors(Blocks.from_boxes(priors), gts, get_score("kld"), 3).gt) == 0
        assert not sum(len(m.gt) for m in priors_above(Blocks.from_boxes(priors), gts, get_score("kld"), 0.5))


def test_a_plain_function_is_computed_for_every_prior():
    generator = torch.Generator().manual_seed(3)
    priors, gts = draw(generator, 300, "grid"), draw(generator, 9, "grid")

    def nearest(dx, dy, *sizes):
        return -(dx.abs() + dy.abs())

    found = topk_priors(Blocks.from_boxes(priors), gts, nearest, 4)
    assert pairs(found) == pairs(topk_dense(priors, gts, nearest, 4))
    assert pairs(topk_priors(Blocks.from_boxes(priors), gts, Score(nearest), 4)) == pairs(found)


def test_exchanged_roles():
    values = [torch.tensor(v, dtype=torch.float64) for v in (3.0, -2.0, 8.0, 5.0, 12.0, 9.0)]
    dx, dy, pw, ph, gw, gh = values
    for score in SCORES.values():
        assert float(score.swapped()(*values)) == float(score(dx, dy, gw, gh, pw, ph))
        if score.symmetric:
            assert float(score(*values)) == float(score(-dx, -dy, gw, gh, pw, ph))
    assert float(SCORES["kld"](*values)) != float(SCORES["kld"].swapped()(*values))
