"""What a predictor and a model say of arrays that are no images, and of edits of a config that nothing reads."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from detectron2.config import get_cfg
from detectron2.engine import DefaultPredictor
from detectron2.modeling import build_model

from d2tiny import add_d2tiny_config, model_zoo
from d2tiny.modeling.meta_arch.inputs import require_array, require_batch
from d2tiny.utils.errors import ConfigError, D2TinyError, ImageError
from tests.helpers.models import NARROW_YAML, small

IMAGE = np.full((64, 96, 3), 7, np.uint8)
WRONG = {
    "none": (None, "cv2.imread returns None"),
    "grey": (IMAGE[..., 0], r"got shape \(64, 96\).*numpy.dstack\(\[image\] \* 3\)"),
    "one channel": (IMAGE[..., :1], r"image.repeat\(3, axis=2\)"),
    "rgba": (np.dstack((IMAGE, IMAGE[..., :1])), r"got shape \(64, 96, 4\).*image\[:, :, :3\]"),
    "chw": (IMAGE.transpose(2, 0, 1), r"image.transpose\(1, 2, 0\)"),
    "batch": (IMAGE[None], r"image\[0\]"),
    "batches": (IMAGE[None].repeat(2, 0), "One image at a time"),
    "bands": (np.zeros((64, 96, 8), np.uint8), "the 3 channels"),
    "number": (np.uint8(3), "got uint8"),
    "no pixel": (IMAGE[:0], "no pixel"),
    "uint16": (IMAGE.astype(np.uint16) + 4000, "uint16 with values up to 4007.*0 to 255"),
    "int32": (IMAGE.astype(np.int32), "int32"),
    "bool": (IMAGE > 3, "bool"),
    "object": (IMAGE.astype(object), "object"),
    "text": ("scene.png", "got str"),
    "list": (IMAGE.tolist(), "got list"),
    "tensor": (torch.as_tensor(IMAGE), "got Tensor"),
    "zero to one": (IMAGE / np.float32(255), "Multiply by 255"),
    "normalised": (IMAGE - 100.0, "values from -93 to -93"),
    "nan": (IMAGE * np.nan, "nan"),
}
HOSTS = ("yolox_s", "yolo11_n", "fcos_r18_p2_rfla", "faster_rcnn_r18_fpn_rfla", "cascade_rcnn_r18_fpn_rfla", "dino_r18")
PREDICTORS = [*(f"quick/{name}" for name in HOSTS), "configs/yaml/faster_rcnn_r50_efpnbs_rfla_dcloss.yaml"]


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=() if n == PREDICTORS[0] else pytest.mark.slow) for n in PREDICTORS]
)
def test_predictors_say_what_they_want(name):
    predictor = DefaultPredictor(model_zoo.get_cfg(name, overrides=NARROW_YAML * name.endswith("yaml"), device="cpu"))
    for image, message in WRONG.values():
        with pytest.raises(ImageError, match=rf"\(height, width, 3\).*{message}"):
            predictor(image)
    for image in (IMAGE, IMAGE.astype(np.float32), IMAGE[::-1, ::2], np.zeros((32, 32, 3)), np.asfortranarray(IMAGE)):
        assert predictor(image)["instances"].image_size == image.shape[:2]
    assert predictor(original_image=IMAGE)["instances"].image_size == (64, 96)


def test_other_projects_predictors_are_left_alone():
    cfg = get_cfg()
    cfg.merge_from_list(["MODEL.DEVICE", "cpu", "MODEL.META_ARCHITECTURE", "RetinaNet", *_TINY_RETINANET])
    with pytest.raises(AttributeError, match="NoneType"):
        DefaultPredictor(cfg)(None)


_TINY_RETINANET = [
    *("MODEL.BACKBONE.NAME", "build_retinanet_resnet_fpn_backbone", "MODEL.RESNETS.DEPTH", 18),
    *("MODEL.RESNETS.RES2_OUT_CHANNELS", 64, "MODEL.RESNETS.OUT_FEATURES", ["res3", "res4", "res5"]),
    *("MODEL.FPN.IN_FEATURES", ["res3", "res4", "res5"], "MODEL.WEIGHTS", "", "INPUT.FORMAT", "BGR"),
    *("MODEL.ANCHOR_GENERATOR.SIZES", [[32], [64], [128], [256], [512]]),
]


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (torch.zeros(64, 96), r"expand\(3, -1, -1\)"),
        (torch.zeros(1, 64, 96), r"expand\(3, -1, -1\)"),
        (torch.zeros(4, 64, 96), r"image\[:3\]"),
        (torch.zeros(64, 96, 3), r"permute\(2, 0, 1\)"),
        (torch.zeros(1, 3, 64, 96), r"image\[0\]"),
        (torch.zeros(3, 0, 96), "no pixel"),
        (torch.zeros(3, 64, 96, dtype=torch.int32), "torch.int32"),
        (IMAGE, r"array.transpose\(2, 0, 1\)"),
        (None, "NoneType"),
    ],
)
def test_models_say_what_they_want(image, message):
    for model in (small("yolox_s").eval(), small("dino_r18").eval()):
        with pytest.raises(ImageError, match=rf"batched_inputs\[1\]\['image'\] .*\(3, H, W\).*{message}"):
            model([{"image": torch.zeros(3, 64, 96)}, {"image": image}])


def test_the_model_of_a_cfg_node_checks_whatever_it_is():
    model = build_model(model_zoo.get_cfg("quick/faster_rcnn_r18_fpn_rfla", device="cpu")).eval()
    with pytest.raises(ImageError, match="got shape"):
        model([{"image": torch.zeros(64, 96)}])


def test_channels_follow_the_model():
    """A model of eight bands takes eight."""
    require_array(np.zeros((5, 6, 8), np.uint8), 8)
    with pytest.raises(ImageError, match=r"\(height, width, 8\), uint8.*Choose the 8 channels"):
        require_array(IMAGE, 8)
    model = torch.nn.Module()
    model.register_buffer("pixel_mean", torch.zeros(8, 1, 1))
    require_batch(model, [{"image": torch.zeros(8, 4, 4)}])
    with pytest.raises(D2TinyError, match=r"\(8, H, W\)"):
        require_batch(model, [{"image": torch.zeros(3, 4, 4)}])


@pytest.mark.parametrize(
    ("name", "edit", "message"),
    [
        ("faster_rcnn_r18_fpn_rfla", ("MODEL.RPN.NMS_THRESH", 0.5), r"\['model.proposal_generator.<name>=<value>'\]"),
        ("faster_rcnn_r18_fpn_rfla", ("MODEL.RPN.ASSIGNER", "RKAAssigner"), "model.proposal_generator"),
        ("faster_rcnn_r18_fpn_rfla", ("MODEL.PIXEL_MEAN", [0.0, 0, 0]), r"\['model.pixel_mean=<value>'\]"),
        ("faster_rcnn_r18_fpn_rfla", ("MODEL.RETINANET.NMS_THRESH_TEST", 0.4), "Edit MODEL.ROI_HEADS.NMS_THRESH_TEST"),
        ("faster_rcnn_r18_fpn_rfla", ("MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE", 9), "model.roi_heads"),
        ("faster_rcnn_r18_fpn_rfla", ("MODEL.MASK_ON", True), "Override 'model' of"),
        ("faster_rcnn_r18_fpn_rfla", ("INPUT.FORMAT", "RGB"), "dataloader.test.mapper.image_format=<value>"),
        ("retinanet_r18_fpn_rfla", ("MODEL.RETINANET.SCORE_THRESH_TEST", 0.4), "Edit MODEL.ROI_HEADS.SCORE_THRESH"),
        ("retinanet_r18_fpn_rfla", ("MODEL.RETINANET.FOCAL_LOSS_GAMMA", 1.0), "'model.head'"),
        ("retinanet_r18_fpn_rfla", ("MODEL.RPN.NMS_THRESH", 0.5), "Override 'model' of"),
        ("yolox_s", ("MODEL.PIXEL_STD", [2.0, 2, 2]), "model.pixel_std"),
        ("dino_r18", ("MODEL.ROI_HEADS.NMS_THRESH_TEST", 0.3), "This model has no such setting"),
        ("dino_r18", ("MODEL.FPN.OUT_CHANNELS", 64), "model.backbone"),
    ],
)
def test_edits_without_effect_are_refused(name, edit, message):
    cfg = model_zoo.get_cfg(f"quick/{name}", device="cpu")
    other = "BGR" if cfg.INPUT.FORMAT == "RGB" else "RGB"
    key, value = (edit[0], other) if edit[0] == "INPUT.FORMAT" else edit
    cfg.merge_from_list([key, value])
    with pytest.raises(ConfigError, match=rf"^{key}=.*has no effect.*{message}") as error:
        build_model(cfg)
    assert "MODEL.WEIGHTS" in str(error.value)


def test_several_edits_are_counted():
    cfg = model_zoo.get_cfg("quick/yolox_s", device="cpu")
    cfg.MODEL.RPN.NMS_THRESH, cfg.MODEL.PIXEL_MEAN, cfg.MODEL.RPN.NMS_TRESH = 0.1, [1.0, 2.0, 3.0], 0.1  # a new key
    with pytest.raises(ConfigError, match=r"PIXEL_MEAN=.*and 2 more: MODEL.RPN.NMS_THRESH, MODEL.RPN.NMS_TRESH\)"):
        build_model(cfg)


def test_edits_that_others_read_are_obeyed():
    """Detectron2's demo sets the score of every kind of model; trainers and loaders read the rest."""
    cfg = model_zoo.get_cfg("quick/yolox_s", device="cpu")
    cfg.MODEL.ROI_HEADS.SCORE_THRESH_TEST = cfg.MODEL.RETINANET.SCORE_THRESH_TEST = 0.61
    cfg.MODEL.PANOPTIC_FPN.COMBINE.INSTANCES_CONFIDENCE_THRESH = 0.61
    cfg.SOLVER.BASE_LR, cfg.INPUT.MIN_SIZE_TEST, cfg.OUTPUT_DIR = 1.0, 640, "elsewhere"
    cfg.MODEL.PIXEL_MEAN = tuple(cfg.MODEL.PIXEL_MEAN)  # the same value
    cfg.MODEL.MINE = type(cfg)({"KEY": 3})  # another project's
    assert build_model(cfg).head.score_thresh == 0.61


def test_a_config_of_another_project_that_names_ours():
    cfg = get_cfg()
    add_d2tiny_config(cfg)
    cfg.MODEL.META_ARCHITECTURE, cfg.MODEL.DEVICE = "LazyModel", "cpu"
    cfg.D2TINY.LAZY_CONFIG = "quick/yolox_s"
    cfg.MODEL.ROI_HEADS.NUM_CLASSES = 8
    assert build_model(cfg).head.num_classes == 8
