from __future__ import annotations

import pytest
import torch
from detectron2.structures import Boxes, Instances
from torch import nn

from d2tiny.inference.tta import TestTimeAugmentation, TTASettings
from d2tiny.utils.errors import ConfigError


class BrightSpots(nn.Module):
    """Finds bright pixels: the box of each, one class a channel; scores are the brightness."""

    def __init__(self, bias=0.0):
        super().__init__()
        self.bias, self.sizes = bias, []

    def forward(self, inputs):
        result = []
        for one in inputs:
            image = one["image"].float()
            self.sizes.append(tuple(image.shape[1:]))
            cls, y, x = (image > 100).nonzero(as_tuple=True)
            factor = torch.tensor([one["width"] / image.shape[2], one["height"] / image.shape[1]]).repeat(2)
            boxes = torch.stack((x, y, x + 1, y + 1), dim=1).float() * factor
            boxes[:, 0::2] += self.bias
            found = Instances((one["height"], one["width"]), pred_boxes=Boxes(boxes), scores=image[cls, y, x] / 255)
            found.pred_classes = cls
            result.append({"instances": found})
        return result


def image(*spots):
    """An image of 6×10 px with spots (channel, y, x, brightness)."""
    pixels = torch.zeros(3, 6, 10)
    for channel, y, x, value in spots:
        pixels[channel, y, x] = value
    return {"image": pixels, "height": 6, "width": 10}


@pytest.mark.parametrize("vflip", [False, True])
def test_flips_are_turned_back(vflip):
    model = TestTimeAugmentation(BrightSpots(), TTASettings(vflip=vflip))
    (out,) = model([image((0, 1, 2, 204), (2, 4, 9, 153))])
    found = out["instances"]
    assert found.pred_boxes.tensor.tolist() == [[2, 1, 3, 2], [9, 4, 10, 5]]
    assert found.pred_classes.tolist() == [0, 2]
    assert torch.allclose(found.scores, torch.tensor([0.8, 0.6]))


def test_an_error_of_one_side_is_cancelled_by_the_mirrored_view():
    """A model that finds everything 0.1 px too far right: 0.1 px too far left in the mirrored view."""
    (out,) = TestTimeAugmentation(BrightSpots(bias=0.1))([image((0, 1, 2, 204))])
    assert torch.allclose(out["instances"].pred_boxes.tensor, torch.tensor([[2.0, 1, 3, 2]]), atol=1e-6)


def test_scales_answer_in_px_of_the_image():
    inner = BrightSpots()
    one = image()
    one["image"][0, 2:4, 4:6] = 255.0
    TestTimeAugmentation(inner, TTASettings(scales=(1.0, 2.0), hflip=False))([one])
    assert inner.sizes == [(6, 10), (12, 20)]


def test_what_one_view_alone_finds_counts_less():
    """Both views agree on the first object (0.8); one of two misses the second: half its score."""

    class OnceBlind(BrightSpots):
        def forward(self, inputs):
            out = super().forward(inputs)
            if len(self.sizes) == 2:
                out[0]["instances"] = out[0]["instances"][out[0]["instances"].pred_classes == 0]
            return out

    (out,) = TestTimeAugmentation(OnceBlind())([image((0, 1, 2, 204), (1, 4, 9, 204))])
    assert torch.allclose(out["instances"].scores, torch.tensor([0.8, 0.4]))


def test_touching_objects_and_objects_of_two_classes_stay_apart():
    (out,) = TestTimeAugmentation(BrightSpots())([image((0, 1, 2, 204), (0, 1, 3, 204), (1, 1, 2, 204))])
    assert len(out["instances"]) == 3


def test_nothing_found():
    (out,) = TestTimeAugmentation(BrightSpots(), TTASettings(vflip=True))([image()])
    assert len(out["instances"]) == 0 and out["instances"].image_size == (6, 10)


def test_wrong_settings():
    for wrong in ({"scales": ()}, {"scales": (0.0,)}, {"iou": 1.0}):
        with pytest.raises(ConfigError, match="tta"):
            TTASettings(**wrong)
