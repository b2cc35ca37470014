"""Parameters and multiply-adds of a config's model, counted without data."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from detectron2.config import instantiate
from omegaconf import DictConfig, OmegaConf
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from d2tiny import model_zoo
from d2tiny.analysis.zoo_table import PROPOSALS, SIDE
from d2tiny.config.signature import resolve_target
from d2tiny.config.validate import components
from d2tiny.layers import SAConv2d
from d2tiny.modeling.transformer import FrozenExpert, flatten_maps
from d2tiny.modeling.transformer.frozen_backbone import RANDOM

__all__ = ["cost"]


@contextmanager
def _without_offsets() -> Iterator[None]:
    """Replace deformable convolutions by ordinary ones, because torchvision cannot run them on the meta device."""
    original = SAConv2d._deform

    def plain(self: SAConv2d, x: Tensor, offset: Tensor, weight: Tensor, factor: int) -> Tensor:
        padding = tuple(factor * p for p in self.padding if not isinstance(p, str))
        return F.conv2d(x, weight, self.bias, self.stride, padding, tuple(factor * d for d in self.dilation))

    SAConv2d._deform = plain  # type: ignore[method-assign]
    try:
        yield
    finally:
        SAConv2d._deform = original  # type: ignore[method-assign]


def cost(name: str) -> dict[str, float]:
    """Compute the cost of a lazy config of the zoo on the meta device.

    Args:
        name: zoo name.

    Returns:
        ``params_m``: parameters in millions; ``gmac``: multiply-adds in billions for one 800 × 800 px image, which the
        config may enlarge.
    """
    cfg = model_zoo.get_config(name)
    OmegaConf.set_struct(cfg, False)
    for _, node in components(cfg.model):
        if resolve_target(node._target_, "model") is FrozenExpert:
            node.weights = RANDOM  # fetching them would change nothing
    model = instantiate(cfg.model).eval()
    parameters = sum(p.numel() for p in model.parameters())
    model.to("meta")
    counter = FlopCounterMode(display=False)
    with _without_offsets(), torch.no_grad(), counter:
        side = round(SIDE * _factor(cfg))
        features = model.backbone(torch.zeros(1, 3, side, side, device="meta"))
        if hasattr(model, "roi_heads"):
            _two_stage(model, features)
        elif hasattr(model, "decoder"):
            _transformer(model, features, side)
        else:
            model.head([features[level] for level in cfg.model.in_features])
    return {"params_m": round(parameters / 1e6, 2), "gmac": round(counter.get_total_flops() / 2e9, 1)}


def _factor(cfg: DictConfig) -> float:
    """Return by how much a config enlarges the sides of an image before the model sees it."""
    place = "dataloader.test.mapper.augmentations"
    augmentations = [(node, resolve_target(node._target_, place)) for node in OmegaConf.select(cfg, place) or []]
    # By its name: what counts operations does not know the loading of images.
    return math.prod(float(node.factor) for node, target in augmentations if target.__name__ == "ResizeByFactor")


def _two_stage(model: Any, features: dict[str, Tensor]) -> None:
    rpn, roi = model.proposal_generator, model.roi_heads
    rpn.rpn_head([features[level] for level in rpn.in_features])
    pooled = torch.zeros(PROPOSALS, features["p2"].shape[1], 7, 7, device="meta")
    several = isinstance(roi.box_head, nn.ModuleList)
    heads = zip(roi.box_head, roi.box_predictor, strict=True) if several else [(roi.box_head, roi.box_predictor)]
    for head, predictor in heads:
        predictor(head(pooled))


def _transformer(model: Any, features: dict[str, Tensor], side: int) -> None:
    """Run encoder, proposals of all tokens, and decoder with the largest number of queries."""
    maps = [features[level] for level in model.head_in_features]
    masks = [torch.zeros(1, *m.shape[-2:], dtype=torch.bool, device="meta") for m in maps]
    if model.routing is not None:
        # REM checks whether there is padding, which is impossible on the meta device.
        unpadded = [torch.zeros(m.shape, dtype=torch.bool) for m in masks]
        maps, _ = model.routing(maps, unpadded, torch.zeros(1, 3, side, side, device="meta"))
    positions = [model.position(m) for m in masks]
    tokens = flatten_maps(maps, positions, masks, model.level_embed, has_padding=False)
    memory = model.encoder(tokens)
    model.selection.propose(memory, tokens)
    if model.density is not None:
        model.density.predict_density(memory, tokens)
        model.density.classify(memory, tokens)
    content = torch.zeros(1, model.selection.num_queries, memory.shape[-1], device="meta")
    boxes = torch.zeros(1, content.shape[1], 4, device="meta")
    model.selection.predict_boxes(content, boxes)
    model.decoder(content, boxes, memory, tokens, None)
