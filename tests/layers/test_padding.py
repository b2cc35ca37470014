from __future__ import annotations

import torch

from d2tiny.layers.padding import extents, masked_mean, padding_of_images, padding_of_level


def batch():
    images = torch.randn(3, 3, 64, 96)
    images[0, :, 40:], images[0, :, :, 50:] = 0, 0
    images[1, :, 10:20] = 0  # a stripe of the mean colour inside an image
    images[2] = 0  # an image of nothing but the mean colour
    return images


def test_padding_is_what_lies_below_and_right_of_the_image():
    padding = padding_of_images(batch())
    expected = torch.zeros(3, 1, 64, 96, dtype=torch.bool)
    expected[0, :, 40:], expected[0, :, :, 50:] = True, True
    assert torch.equal(padding, expected)
    assert padding_of_images(batch()[1:]) is None


def test_cells_that_see_a_part_of_the_image_are_not_padding():
    cells = padding_of_level(padding_of_images(batch()), torch.zeros(3, 8, 4, 6))  # stride 16
    assert cells[0, 0].tolist() == [[x >= 4 or y >= 3 for x in range(6)] for y in range(4)]
    assert not cells[1:].any()


def test_mean_over_the_image():
    x = torch.randn(3, 8, 4, 6)
    cells = padding_of_level(padding_of_images(batch()), x)
    mean = masked_mean(x, cells)
    torch.testing.assert_close(mean[0, :, 0, 0], x[0, :, :3, :4].mean((1, 2)))
    torch.testing.assert_close(mean[1:], x[1:].mean((2, 3), keepdim=True))
    assert torch.equal(masked_mean(x, None), x.mean((2, 3), keepdim=True))


def test_mean_in_half_precision():
    """Bfloat16 counts whole numbers up to 256 only; the mean over 2,145 places is exact to its own rounding."""
    x = torch.rand(1, 4, 60, 60, dtype=torch.bfloat16)
    cells = torch.ones(1, 1, 60, 60, dtype=torch.bool)
    cells[..., :39, :55] = False
    expected = x[..., :39, :55].float().mean((2, 3), keepdim=True)
    assert torch.equal(masked_mean(x, cells), expected.to(torch.bfloat16))


def test_extents():
    cells = padding_of_level(padding_of_images(batch()), torch.zeros(3, 8, 4, 6))
    rows, columns = extents(cells)
    assert (rows.tolist(), columns.tolist()) == ([3, 4, 4], [4, 6, 6])


def test_shapes_alone_have_no_padding():
    """Costs are counted without data."""
    assert padding_of_images(torch.zeros(1, 3, 8, 8, device="meta")) is None
