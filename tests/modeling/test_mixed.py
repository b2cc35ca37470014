"""Any backbone and neck with any detector, assigner and loss; what cannot work is refused with the reason."""

from __future__ import annotations

import itertools
import runpy

import pytest
from detectron2.config import instantiate

from d2tiny import model_zoo
from d2tiny.config import apply_overrides, validate_config
from d2tiny.config.lazy import configs_root
from tests.modeling.test_configs import BATCHES, narrow, predict, step
from tests.modeling.test_pairs import ASSIGNERS, LOSSES, overrides

PARTS = runpy.run_path(str(configs_root() / "common" / "parts.py"))
NECKS = {
    "fpn": (),
    "efpnbs": ("efpnbs",),
    "sarl": ("sarl",),
    "sarl and efpnbs": ("sarl", "efpnbs"),
    "rfp": ("detectors",),
    "rfp and efpnbs": ("detectors", "efpnbs"),
}
DETECTORS = {"faster": "quick/faster_rcnn_r18_fpn_rfla", "cascade": "quick/cascade_rcnn_r18_fpn_rfla"}


def config(detector, neck, assigner, loss):
    cfg = model_zoo.get_config(DETECTORS[detector])
    for part in NECKS[neck]:
        PARTS[part](cfg.model)
    changes = overrides("model.proposal_generator.assigner", ASSIGNERS[assigner])
    changes += overrides("model.proposal_generator.box_loss", LOSSES[loss])
    if detector == "faster":
        changes += overrides("model.roi_heads.box_predictor.box_loss", LOSSES[loss])
    for stage in range(3) if detector == "cascade" else ():
        changes += overrides(f"model.roi_heads.box_predictors.{stage}.box_loss", LOSSES[loss])
    return apply_overrides(cfg, changes)


@pytest.mark.parametrize("neck", NECKS)
@pytest.mark.parametrize("detector", DETECTORS)
def test_all_combinations_are_valid_and_some_are_trained(detector, neck):
    """648 configs are checked; three of each detector and neck, never the same pair, take a step and predict."""
    pairs = list(itertools.product(ASSIGNERS, LOSSES))
    start = 3 * (list(NECKS).index(neck) + len(NECKS) * list(DETECTORS).index(detector))
    for number, (assigner, loss) in enumerate(pairs):
        cfg = config(detector, neck, assigner, loss)
        validate_config(cfg, datasets=False)
        if number in {7 * i % len(pairs) for i in range(start, start + 3)}:
            model = instantiate(narrow(cfg).model)
            for batch in BATCHES.values():
                step(model, batch)
            predict(model)


def test_a_relay_inside_the_recursive_pyramid_is_refused():
    """RFP feeds back into the blocks of its backbones; a relay around them has no entrance for that."""
    cfg = model_zoo.get_config("quick/detectors_r18_rfp_rfla")
    relay = {"_target_": "d2tiny.modeling.necks.SARL", "channels": [64, 128, 256, 512]}
    fpn = cfg.model.backbone.fpn
    fpn.bottom_up = {
        "_target_": "d2tiny.modeling.necks.NeckedBackbone",
        "backbone": fpn.bottom_up,
        "neck": relay,
    }
    with pytest.raises(ValueError, match="must be a DetectoRSResNet, got NeckedBackbone"):
        instantiate(cfg.model)


def test_a_plain_resnet_in_the_recursive_pyramid_is_refused():
    cfg = model_zoo.get_config("quick/detectors_r18_rfp_rfla")
    cfg.model.backbone.fpn.bottom_up = model_zoo.get_config(DETECTORS["faster"]).model.backbone.bottom_up
    with pytest.raises(ValueError, match="must be a DetectoRSResNet, got ResNet"):
        instantiate(cfg.model)


def test_widths_that_do_not_fit_are_named():
    cfg = model_zoo.get_config("quick/detectors_r18_efpnbs_rfla")
    cfg.model.backbone.backbone.fpn.out_channels = 48
    with pytest.raises(Exception, match=r"model.backbone.neck.channels=64 but the pyramid has 48") as info:
        validate_config(cfg, datasets=False)
    for part in ("backbone.second.feedback_channels=64", "head.in_channels=64", "box_heads.2.input_shape.channels=64"):
        assert part in str(info.value)
