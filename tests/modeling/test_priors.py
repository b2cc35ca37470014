from __future__ import annotations

import pytest
import torch
from detectron2.modeling.anchor_generator import DefaultAnchorGenerator

from d2tiny.modeling.priors import RFAnchorGenerator, grid_from_generator, receptive_fields
from d2tiny.modeling.priors.grid import GridLevel, GridPriors
from d2tiny.ops.boxes import xyxy_to_cxcywh


def maps(height, width, strides):
    return [torch.zeros(1, 1, -(-height // s), -(-width // s)) for s in strides]


def test_receptive_fields():
    """docs/papers/rfla.md#theoretical-receptive-fields: r(P2) = 11 + 3·2·4 = 35, r(P3) = 35 + 8 + 3·16 = 91, …"""
    assert receptive_fields(2, 6) == [35, 91, 267, 427, 555, 811]
    assert receptive_fields(3, 5) == [91, 267, 427, 555, 811]
    with pytest.raises(ValueError, match=r"P2\.\.P7"):
        receptive_fields(4, 5)


def test_anchor_sides():
    """Half the receptive fields: 17.5, 45.5, 133.5, 213.5, 277.5, squares exact, others within 0.001 px."""
    generator = RFAnchorGenerator(strides=[4, 8, 16, 32, 64])
    for cells, side in zip(generator.cell_anchors, [17.5, 45.5, 133.5, 213.5, 277.5], strict=True):
        sizes = xyxy_to_cxcywh(cells)[:, 2:]
        assert sizes[1].tolist() == [side, side]
        expected = torch.tensor([[side * 2**0.5, side / 2**0.5], [side, side], [side / 2**0.5, side * 2**0.5]])
        torch.testing.assert_close(sizes, expected, atol=1e-3, rtol=0)


@pytest.mark.parametrize("offset", [0.0, 0.5])
def test_grid_equals_generator(offset):
    strides = [4, 8, 16]
    for generator in (
        RFAnchorGenerator(strides=strides, offset=offset),
        DefaultAnchorGenerator(
            sizes=[[8, 10], [16, 20], [32, 40]], aspect_ratios=[0.5, 1.0], strides=strides, offset=offset
        ),
    ):
        features = maps(61, 94, strides)
        grid = grid_from_generator(generator, features)
        expected = torch.cat([b.tensor for b in generator(features)])
        assert len(grid) == len(expected)
        torch.testing.assert_close(grid.boxes(), expected, rtol=0, atol=1e-3)


def test_prior_grids_describe_the_same_boxes():
    """Centre, size and flat index of every family, against the materialised boxes."""
    grid = grid_from_generator(RFAnchorGenerator(strides=[4, 8]), maps(20, 28, [4, 8]))
    lat, boxes = grid.prior_grids, xyxy_to_cxcywh(grid.boxes().double())
    assert lat.num_priors == len(boxes)
    seen = []
    for m in range(len(lat.stride)):
        for iy in range(int(lat.rows[m])):
            for ix in range(int(lat.columns[m])):
                index = int(lat.base[m] + (iy * lat.columns[m] + ix) * lat.step[m])
                expected = [
                    float(ix * lat.stride[m] + lat.cx[m]),
                    float(iy * lat.stride[m] + lat.cy[m]),
                    float(lat.w[m]),
                    float(lat.h[m]),
                ]
                assert boxes[index].tolist() == expected  # exactly: cell anchors are snapped
                seen.append(index)
    assert sorted(seen) == list(range(len(boxes)))


def test_bad_input():
    with pytest.raises(ValueError, match="stride 0"):
        GridPriors([GridLevel(0, 1, 1, torch.zeros(1, 4))])
    with pytest.raises(ValueError, match="fraction"):
        RFAnchorGenerator(strides=[4], fraction=0)
