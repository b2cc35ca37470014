"""YOLOX, YOLOv5 and YOLO11 in the sizes of their papers and released code."""

from detectron2.config import LazyCall as L

from d2tiny.modeling.assigners import RatioAssigner, SimOTAAssigner, TALAssigner
from d2tiny.modeling.backbone import CSPDarknet, YOLO11Backbone
from d2tiny.modeling.backbone.staged import rounded
from d2tiny.modeling.dense_heads import YOLO11Head, YOLOv5Head, YOLOXHead
from d2tiny.modeling.losses import IoULoss
from d2tiny.modeling.meta_arch import TinyDenseDetector
from d2tiny.modeling.necks import PAFPN, NeckedBackbone
from d2tiny.utils.errors import ConfigError, did_you_mean

from .rcnn import for_weights_of, lite0

# Multipliers of depth and width; of YOLO11 also the largest width and whether blocks are the larger C3k.
CSP_SIZES = {"s": (0.33, 0.5), "m": (0.67, 0.75), "l": (1.0, 1.0)}
YOLO11_SIZES = {
    "n": (0.5, 0.25, 1024, False),
    "s": (0.5, 0.5, 1024, False),
    "m": (0.5, 1.0, 512, True),
    "l": (1.0, 1.0, 512, True),
}
# Channels behind the backbone and the PAFPN, as the part that follows them asks.
STAGES = "${channels:${..backbone},${.in_features}}"
LEVELS = "${channels:${..backbone},${..in_features}}"


def _size(name, size, sizes):
    if size not in sizes:
        raise ConfigError(f"{name} has no size '{size}'. {did_you_mean(size, sizes)}")
    return sizes[size]


def _detector(backbone, neck, head, *, pixel_std, input_format):
    return L(TinyDenseDetector)(
        backbone=L(NeckedBackbone)(backbone=backbone, neck=neck),
        in_features=["p3", "p4", "p5"],
        head=head,
        pixel_mean=[0.0, 0.0, 0.0],
        pixel_std=[pixel_std] * 3,
        input_format=input_format,
    )


def _csp_pafpn(depth):
    return L(PAFPN)(
        in_channels=STAGES,
        out_channels="${.in_channels}",
        in_features=["c3", "c4", "c5"],
        repeats=max(round(3 * depth), 1),
        block="csp",
    )


def yolox(size, num_classes, max_detections=3000):
    """YOLOX (Ge et al., 2021): raw BGR values, SimOTA, 1 - IoU²."""
    depth, width = _size("YOLOX", size, CSP_SIZES)
    head = L(YOLOXHead)(
        num_classes=num_classes,
        in_channels=LEVELS,
        width=rounded(256 * width),
        strides=[8, 16, 32],
        assigner=L(SimOTAAssigner)(radius=1.5),
        box_loss=L(IoULoss)(kind="iou2"),
        box_weight=5.0,
        l1_weight=0.0,
        score_thresh=0.01,
        nms_thresh=0.65,
        pre_nms_topk=3000,
        max_detections=max_detections,
    )
    darknet = L(CSPDarknet)(depth=depth, width=width, variant="yolox", out_features=["c3", "c4", "c5"])
    return _detector(darknet, _csp_pafpn(depth), head, pixel_std=1.0, input_format="BGR")


def yolov5(size, num_classes):
    """YOLOv5 (released code) with anchors for tiny objects; `d2tiny anchors` fits others to your data."""
    depth, width = _size("YOLOv5", size, CSP_SIZES)
    head = L(YOLOv5Head)(
        num_classes=num_classes,
        in_channels=LEVELS,
        strides=[8, 16, 32],
        anchors=[
            [[4, 4], [7, 7], [11, 11]],
            [[15, 15], [21, 21], [29, 29]],
            [[40, 40], [60, 60], [90, 90]],
        ],
        assigner=L(RatioAssigner)(max_ratio=4.0),
        box_loss=L(IoULoss)(kind="ciou"),
        balance=[4.0, 1.0, 0.4],
        score_thresh=0.001,
        nms_thresh=0.6,
        pre_nms_topk=3000,
        max_detections=1500,
    )
    darknet = L(CSPDarknet)(depth=depth, width=width, variant="yolov5", out_features=["c3", "c4", "c5"])
    return _detector(darknet, _csp_pafpn(depth), head, pixel_std=255.0, input_format="RGB")


def yolo11(size, num_classes):
    """YOLO11 (released code): values in [0, 1], task-aligned assignment, 1 - CIoU and distribution focal loss."""
    depth, width, max_channels, c3k = _size("YOLO11", size, YOLO11_SIZES)
    neck = L(PAFPN)(
        in_channels=STAGES,
        out_channels=[rounded(min(c, max_channels) * width) for c in (256, 512, 1024)],
        in_features=["c3", "c4", "c5"],
        repeats=max(round(2 * depth), 1),
        block="c3k2",
        c3k=c3k,
    )
    head = L(YOLO11Head)(
        num_classes=num_classes,
        in_channels=LEVELS,
        strides=[8, 16, 32],
        assigner=L(TALAssigner)(topk=10, alpha=0.5, beta=6.0, min_candidate_size=0.0),
        box_loss=L(IoULoss)(kind="ciou"),
        score_thresh=0.001,
        nms_thresh=0.7,
        pre_nms_topk=3000,
        max_detections=1500,
    )
    backbone = L(YOLO11Backbone)(
        depth=depth, width=width, max_channels=max_channels, c3k=c3k, out_features=["c2", "c3", "c4", "c5"]
    )
    return _detector(backbone, neck, head, pixel_std=255.0, input_format="RGB")


def on_timm(model, backbone, channels=None):
    """The neck and head of a YOLO on a backbone of timm, whose weights expect RGB.

    Args:
        model: of yolox, yolov5 or yolo11.
        backbone: of timm_backbone.
        channels: of the neck's levels, finest first; default: those that the neck has of its own, or the backbone's.
    """
    neck = model.backbone.neck
    neck.in_features = ["res3", "res4", "res5"]
    if channels is not None:
        neck.out_channels = channels
    model.backbone.backbone.out_features = neck.in_features
    model.input_format = "RGB"
    return for_weights_of(backbone, model)


def yolox_lite0(num_classes):
    """Neck and head of YOLOX-s for quick trainings from ImageNet weights."""
    width = CSP_SIZES["s"][1]
    channels = [rounded(c * width) for c in (256, 512, 1024)]
    return on_timm(yolox("s", num_classes, max_detections=1500), lite0(), channels)


def yolo11_lite0(num_classes):
    """Neck and head of YOLO11n for quick trainings from ImageNet weights."""
    return on_timm(yolo11("n", num_classes), lite0())
