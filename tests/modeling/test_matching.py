"""Proposals are matched as by Detectron2's Matcher on the whole matrix, in bounded time and memory."""

from __future__ import annotations

import resource
import subprocess
import sys

import pytest
import torch
from detectron2.modeling.matcher import Matcher
from detectron2.structures import Boxes, pairwise_iou

from d2tiny.modeling.roi_heads import matching
from d2tiny.modeling.roi_heads.matching import match_proposals
from d2tiny.ops.boxes import xyxy_to_cxcywh
from d2tiny.ops.gaussian import nwd_score

KINDS = ("scattered", "integers", "one size", "equal", "without area", "far apart")


def draw(generator, count, kind, largest=12.0):
    """(count, 4) float32 XYXY boxes."""
    centre, size = torch.rand(count, 2, generator=generator) * 200, torch.rand(count, 2, generator=generator)
    size = 2 + (largest - 2) * size
    if kind == "integers":
        centre, size = centre.round(), size.round()
    if kind == "one size":
        centre, size = centre.round(), torch.full_like(size, 8)
    if kind == "equal":
        centre, size = torch.full_like(centre, 50), torch.full_like(size, 9)
    if kind == "far apart":
        centre = centre * 60
    if kind == "without area":
        size[::3, 0] = 0
    return torch.cat((centre - size / 2, centre + size / 2), 1)


def whole_matrix(objects, boxes, constant):
    """The (G, R) matrix of IoU as Detectron2 computes it, or of NWD."""
    if constant is None:
        return pairwise_iou(Boxes(objects), Boxes(boxes))
    g, p = xyxy_to_cxcywh(objects)[:, None], xyxy_to_cxcywh(boxes)[None]
    offset = p[..., :2] - g[..., :2]
    values = nwd_score(*offset.unbind(-1), *p[..., 2:].unbind(-1), *g[..., 2:].unbind(-1), constant=constant)
    return values * (g[..., 2:] > 0).all(-1)


@pytest.mark.parametrize("constant", [None, 12.8, 0.5])
@pytest.mark.parametrize("low_quality", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_equals_detectron2(monkeypatch, kind, low_quality, constant):
    monkeypatch.setattr(matching, "CHUNK_ELEMENTS", 0)  # search, however small the matrix is
    matchers = Matcher([0.5], [0, 1], low_quality), Matcher([0.3, 0.6], [0, -1, 1], low_quality)
    for seed, (objects, proposals) in enumerate([(1, 50), (3, 1), (70, 400), (500, 300), (1500, 200)]):
        generator = torch.Generator().manual_seed(seed)
        gts = draw(generator, objects, kind)
        boxes = torch.cat(
            (
                draw(generator, proposals, KINDS[seed], largest=(12.0, 150.0)[seed % 2]),
                gts[:: max(1, objects // 40)] + torch.rand(4, generator=generator) * (seed % 2),
            )
        )
        for matcher in matchers:
            matched, labels = match_proposals(matcher, gts, boxes, constant)
            expected = matcher(whole_matrix(gts, boxes, constant))
            assert torch.equal(matched, expected[0])
            assert torch.equal(labels, expected[1])
            assert (matched.dtype, labels.dtype) == (torch.int64, torch.int8)


def test_small_matrices_and_empty_ones():
    generator, matcher = torch.Generator().manual_seed(0), Matcher([0.5], [0, 1])
    gts, boxes = draw(generator, 20, "scattered"), draw(generator, 90, "scattered")
    for some, others in ((gts, boxes), (gts[:0], boxes), (gts, boxes[:0])):
        for constant in (None, 12.8):
            found = match_proposals(matcher, some, others, constant)
            expected = matcher(whole_matrix(some, others, constant))
            assert torch.equal(found[0], expected[0])
            assert torch.equal(found[1], expected[1])


def crowd(count=10_000):
    """10,000 objects in 640 px, 3,000 proposals of up to 400 px and the objects themselves."""
    generator = torch.Generator().manual_seed(0)
    gts = draw(generator, count, "scattered") * 3.2
    centre = torch.rand(3000, 2, generator=generator) * 640
    size = torch.exp(torch.rand(3000, 2, generator=generator) * 5 + 1)
    boxes = torch.cat((centre - size / 2, centre + size / 2), 1).clamp(0, 640)
    return gts, torch.cat((boxes, gts))


def measure():
    """Print the growth of the peak memory in MB and the largest share of the pairs whose overlap is computed."""
    gts, boxes = crowd()
    match_proposals(Matcher([0.5], [0, 1]), gts[:500], boxes[-500:])
    before, share = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, 0.0
    for name, constant in (("aligned_iou", None), ("_nwd", 12.8)):
        pairs, value = [], getattr(matching, name)

        def counted(*args, pairs=pairs, value=value, **kwargs):
            values = value(*args, **kwargs)
            pairs.append(values.numel())
            return values

        setattr(matching, name, counted)
        match_proposals(Matcher([0.5], [0, 1]), gts, boxes, constant)
        share = max(share, sum(pairs) / (len(gts) * len(boxes)))
    print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024, share)


@pytest.mark.slow
def test_ten_thousand_objects():
    """Before: 4 GB and every pair. In a process of its own, because the peak of this one may be higher already."""
    code = "from tests.modeling.test_matching import measure; measure()"
    output = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
    megabytes, share = (float(v) for v in output.split())
    assert megabytes < 300
    assert 0 < share < 0.25
