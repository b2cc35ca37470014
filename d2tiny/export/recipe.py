"""What a detector needs around its graph: normalisation, padding, resizing, and what the file says of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from detectron2.data.transforms import ResizeShortestEdge

import d2tiny
from d2tiny.config.lazy import load_config
from d2tiny.export.dense import DenseGraph
from d2tiny.export.graph import DetectorGraph
from d2tiny.export.prepare import prepared
from d2tiny.export.transformer import TransformerGraph
from d2tiny.export.two_stage import TwoStageGraph
from d2tiny.inference.torch_detector import TorchDetector
from d2tiny.modeling.meta_arch import TinyDenseDetector, TinyDINO
from d2tiny.modeling.meta_arch.lazy import resize_by_factor
from d2tiny.runtime.metadata import ModelMetadata
from d2tiny.utils.download import sha256_of
from d2tiny.utils.errors import ConfigError

__all__ = ["Recipe", "recipe_of"]


@dataclass(frozen=True)
class Recipe:
    """A detector ready to be exported.

    Attributes:
        graph: the detector behind normalisation and padding.
        pixel_mean: of each channel.
        pixel_std: likewise.
        divisor: px that the sides of padded images are multiples of; 1 for no padding.
        flip: whether the channels of the input are in the other order than the model's.
        metadata: what the file says.
    """

    graph: DetectorGraph
    pixel_mean: tuple[float, ...]
    pixel_std: tuple[float, ...]
    divisor: int
    flip: bool
    metadata: ModelMetadata


def recipe_of(detector: TorchDetector, name: str, *, channels: str | None = None, tile: int = 800) -> Recipe:
    """Return how a detector with its weights is exported.

    Args:
        detector: the model of a config.
        name: of the config; of a file only its own name is kept, not the folders of this machine.
        channels: order of the channels of the exported input, ``RGB`` or ``BGR``; default: the model's.
        tile: side in px of the tiles that the model suits.

    Raises:
        ConfigError: a part that no graph can hold; says which.
    """
    name = Path(name).stem if Path(name).is_absolute() else name
    model = prepared(detector.model)
    _require_exportable(model, name)
    own = detector.cfg.INPUT.FORMAT
    channels = channels or own
    return Recipe(
        graph=_graph_of(model).eval(),
        pixel_mean=tuple(model.pixel_mean.flatten().tolist()),
        pixel_std=tuple(model.pixel_std.flatten().tolist()),
        divisor=max(int(model.backbone.size_divisibility), 1),
        flip=channels != own,
        metadata=_metadata(detector, name, channels, tile),
    )


def _graph_of(model: Any) -> DetectorGraph:
    if isinstance(model, TinyDINO):
        return TransformerGraph(model)
    return DenseGraph(model) if isinstance(model, TinyDenseDetector) else TwoStageGraph(model)


def _require_exportable(model: Any, name: str) -> None:
    rpn = getattr(model, "proposal_generator", None)
    if getattr(rpn, "nms_metric", "iou") != "iou":
        raise ConfigError(
            f"{name}: NMS by NWD has no operator in any exported format. Export the same weights with NMS by IoU: "
            "model.proposal_generator.nms_metric=iou model.proposal_generator.nms_thresh=0.7 (the proposals differ)."
        )
    if model.pixel_mean.numel() != 3:
        raise ConfigError(f"{name}: exported graphs take 3 channels; this model takes {model.pixel_mean.numel()}.")
    frozen = [n for n, m in model.named_modules() if type(m).__name__ == "FrozenExpert"]
    if frozen:
        raise ConfigError(
            f"{name}: {frozen[0]} sees each image without its padding, which no graph of dynamic sizes can. Export a "
            "model without frozen experts."
        )


def _metadata(detector: TorchDetector, name: str, channels: str, tile: int) -> ModelMetadata:
    cfg = detector.cfg
    lazy = load_config(cfg.D2TINY.LAZY_CONFIG, cfg.D2TINY.LAZY_OVERRIDES) if cfg.D2TINY.LAZY_CONFIG else None
    weights = Path(cfg.MODEL.WEIGHTS) if cfg.MODEL.WEIGHTS else None
    family = Path(name).name.split("_")
    return ModelMetadata(
        config=name,
        family="_".join(family[:2]) if family[1:2] == ["rcnn"] else family[0],
        classes=tuple(detector.classes),
        channels=channels,
        protocol=_protocol(lazy),
        tile=tile,
        max_size=None,
        resize=_resize(detector, lazy),
        batch=True,
        nms_thresh=detector.merge_settings.nms,
        score_thresh=float(cfg.MODEL.ROI_HEADS.SCORE_THRESH_TEST),
        max_detections=max(int(cfg.TEST.DETECTIONS_PER_IMAGE), 1),
        precision="fp32",
        weights_sha256=sha256_of(weights) if weights is not None and weights.is_file() else "",
        d2tiny_version=d2tiny.__version__,
        title=f"{name} for {_words(detector.classes)}",
    )


def _words(classes: Sequence[str]) -> str:
    shown = ", ".join(classes[:4])
    return shown if len(classes) <= 4 else f"{shown} and {len(classes) - 4} more"


def _protocol(lazy: Any) -> str:
    evaluator = (lazy or {}).get("dataloader", {}).get("evaluator", {}) if lazy is not None else {}
    return str(evaluator.get("protocol", "aitod") or "aitod")


def _resize(detector: TorchDetector, lazy: Any) -> dict[str, Any] | None:
    """Return what is done to an image before the graph, as :class:`~d2tiny.runtime.Resize` reads it."""
    resize = None if lazy is None else resize_by_factor(lazy)
    if resize is not None:
        return {"kind": "factor", "factor": float(resize.factor)}
    augmentation = detector.augmentation
    if not isinstance(augmentation, ResizeShortestEdge) or not augmentation.short_edge_length[0]:
        return None
    return {
        "kind": "shortest_edge",
        "short": int(augmentation.short_edge_length[0]),
        "max": int(augmentation.max_size),
    }
