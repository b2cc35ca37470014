"""Images are resized by Pillow to the pixels that Detectron2's transforms give."""

from __future__ import annotations

import numpy as np
import pytest
from detectron2.data.transforms import ResizeShortestEdge, ResizeTransform

from d2tiny.data.transforms import ResizeByFactor
from d2tiny.inference.torch_detector import TorchDetector
from d2tiny.runtime import ArrayDetections
from d2tiny.runtime.resize import Resize, resized

SIZES = [(60, 90), (97, 61), (200, 200), (1, 7), (333, 77)]


def both(kind, height, width):
    """The transform of Detectron2, and ours."""
    if kind == "factor":
        return ResizeByFactor(1.7), Resize.from_dict({"kind": "factor", "factor": 1.7})
    short, longest = kind
    return (
        ResizeShortestEdge([short, short], longest),
        Resize.from_dict({"kind": "shortest_edge", "short": short, "max": longest}),
    )


@pytest.mark.parametrize("kind", [(120, 160), (64, 4000), (33, 40), "factor"])
@pytest.mark.parametrize("size", SIZES)
def test_the_pixels_of_detectron2(kind, size):
    image = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
    theirs, ours = both(kind, *size)
    want = theirs.get_transform(image).apply_image(image)
    assert ours.size(*size) == want.shape[:2]
    np.testing.assert_array_equal(resized(image, ours.size(*size)), want)
    # In whatever order the channels come.
    np.testing.assert_array_equal(resized(image[:, :, ::-1], ours.size(*size)), want[:, :, ::-1])


@pytest.mark.parametrize("kind", [(120, 160), (256, 300), (256, 4000)])
@pytest.mark.parametrize("size", [(128, 128), (128, 40), (61, 128)])
def test_parts_of_a_scene_have_the_scale_of_a_tile(kind, size):
    theirs, ours = both(kind, *size)
    detector = TorchDetector.__new__(TorchDetector)
    detector._predictor = type("Predictor", (), {"aug": theirs})
    transform = detector._transform(size[1], size[0], 128)
    assert isinstance(transform, ResizeTransform)
    assert ours.tile_size(*size, 128) == (transform.new_h, transform.new_w)


def test_boxes_come_back_as_by_detectron2():
    """Scaled, clipped, without those that have no area left."""
    import torch
    from detectron2.modeling.postprocessing import detector_postprocess
    from detectron2.structures import Boxes, Instances

    rng = np.random.default_rng(0)
    corner = rng.uniform(-10, 160, (200, 2))
    boxes = np.concatenate((corner, corner + rng.uniform(-1, 30, (200, 2))), axis=1).astype(np.float32)
    scores = np.sort(rng.uniform(size=200).astype(np.float32))[::-1].copy()
    found = ArrayDetections(boxes, scores, rng.integers(0, 3, 200).astype(np.int32))
    instances = Instances((120, 150))
    instances.pred_boxes, instances.scores = Boxes(torch.tensor(boxes)), torch.tensor(scores)
    want = detector_postprocess(instances, 71, 97)
    got = found.scaled((120, 150), (71, 97))
    assert 100 < len(want) < 200
    np.testing.assert_array_equal(got.boxes, want.pred_boxes.tensor.numpy())
    np.testing.assert_array_equal(got.scores, want.scores.numpy())
