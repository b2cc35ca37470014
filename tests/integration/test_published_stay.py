"""Published weights name a config of the package: a default or a config that changes must not change what they find."""

from __future__ import annotations

import numpy as np
import pytest

from d2tiny import model_zoo
from d2tiny.inference.torch_detector import TorchDetector
from d2tiny.synthetic import render_scene
from d2tiny.utils.published import read_manifest, shipped_folder

# Detections in a drawn scene, and the mean of the 20 highest scores, as they were when this was written.
FOUND = {"thermal": (76, 0.495), "colour": (36, 0.998), "colour_x2": (29, 0.995)}


def test_all_published_weights_are_known_here():
    assert {weights.name for weights in read_manifest(shipped_folder()).weights} == set(FOUND)


@pytest.mark.parametrize("name", FOUND)
def test_they_find_what_they_found(name):
    """Where this fails and AP is no worse, publish the weights anew; otherwise set the former value in the config."""
    detector = TorchDetector(model_zoo.get_cfg(weights=name, device="cpu"))
    image = np.ascontiguousarray(render_scene(3, height=320, width=320).image)
    scores = np.sort(np.asarray(detector.detect([image], None)[0].scores))[::-1]
    count, best = FOUND[name]
    assert len(scores) == pytest.approx(count, abs=1)
    assert scores[:20].mean() == pytest.approx(best, abs=0.002)
