"""Table of the model zoo (MODEL_ZOO.md): cost, published metrics and measured metrics of every config.

Costs are cached in ``results/zoo/cost.json`` because computing them takes minutes. Published metrics are in
``results/zoo/published.json``, measured metrics in the other records of ``results``.
"""

from __future__ import annotations

import json
import logging
import statistics
from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from detectron2.config import instantiate
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from d2tiny import model_zoo
from d2tiny.layers import SAConv2d
from d2tiny.modeling.transformer import flatten_maps

__all__ = ["cost", "markdown"]

logger = logging.getLogger(__name__)
METRICS = ("AP", "AP50", "AP75", "APvt", "APt", "APs", "APm")
PROPOSALS = 1000
SIDE = 800
_HEAD = f"""# Model zoo

Made by `python tools/make_model_zoo.py`; do not edit. Numbers are {" / ".join(METRICS)}.
*Published* is what the named table says: a target, not a result of ours. *Measured* is ours, the mean over the named
number of runs on `aerial_*` (see [results](results/README.md)); "not run" was never trained here. GMAC are
multiply-adds of one image of {SIDE} px: backbone, neck, heads, and box heads for {PROPOSALS:,} proposals; deformable
convolutions count as plain ones. Of transformers the samples of deformable attention are not counted; they have the
largest number of queries.
"""
_COLUMNS = ("config", "params M", "GMAC", "published", "table", "measured")


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
        ``params_m``: parameters in millions; ``gmac``: multiply-adds in billions for one 800 × 800 px image.
    """
    cfg = model_zoo.get_config(name)
    model = instantiate(cfg.model).eval()
    parameters = sum(p.numel() for p in model.parameters())
    model.to("meta")
    counter = FlopCounterMode(display=False)
    with _without_offsets(), torch.no_grad(), counter:
        features = model.backbone(torch.zeros(1, 3, SIDE, SIDE, device="meta"))
        if hasattr(model, "roi_heads"):
            _two_stage(model, features)
        elif hasattr(model, "decoder"):
            _transformer(model, features)
        else:
            model.head([features[level] for level in cfg.model.in_features])
    return {"params_m": round(parameters / 1e6, 2), "gmac": round(counter.get_total_flops() / 2e9, 1)}


def _two_stage(model: Any, features: dict[str, Tensor]) -> None:
    rpn, roi = model.proposal_generator, model.roi_heads
    rpn.rpn_head([features[level] for level in rpn.in_features])
    pooled = torch.zeros(PROPOSALS, features["p2"].shape[1], 7, 7, device="meta")
    several = isinstance(roi.box_head, nn.ModuleList)
    heads = zip(roi.box_head, roi.box_predictor, strict=True) if several else [(roi.box_head, roi.box_predictor)]
    for head, predictor in heads:
        predictor(head(pooled))


def _transformer(model: Any, features: dict[str, Tensor]) -> None:
    """Run encoder, proposals of all tokens, and decoder with the largest number of queries."""
    maps = [features[level] for level in model.head_in_features]
    masks = [torch.zeros(1, *m.shape[-2:], dtype=torch.bool, device="meta") for m in maps]
    if model.routing is not None:
        # REM checks whether there is padding, which is impossible on the meta device.
        maps, _ = model.routing(maps, [torch.zeros(m.shape, dtype=torch.bool) for m in masks])
    tokens = flatten_maps(maps, [model.position(m) for m in masks], masks, model.level_embed)
    memory = model.encoder(tokens)
    model.selection.propose(memory, tokens)
    if model.density is not None:
        model.density.head(maps[0])
    content = model.selection.content.weight.detach()[None]
    boxes = torch.zeros(1, content.shape[1], 4, device="meta")
    model.selection.predict_boxes(content, boxes)
    model.decoder(content, boxes, memory, tokens, None)


def _numbers(metrics: Mapping[str, float | None]) -> str:
    values = [metrics.get(key) for key in METRICS]
    return " / ".join("–" if value is None else f"{value:.1f}" for value in values)


def _measured(results: Path) -> dict[str, list[dict[str, float]]]:
    """Return the metrics of all records of unmodified configs and schedules, by zoo name."""
    metrics: dict[str, list[dict[str, float]]] = defaultdict(list)
    for path in sorted(results.rglob("*_seed*.json")):
        record = json.loads(path.read_text())
        changed = [o for o in record.get("overrides", []) if o.startswith(("model.", "train.max_iter"))]
        name = str(record.get("config", "")).removeprefix("configs/").removesuffix(".py")
        if not changed and name:
            metrics[name].append(record["metrics"])
    return metrics


def markdown(results: Path) -> str:
    """Return the content of MODEL_ZOO.md.

    Args:
        results: the folder ``results`` of the repository.
    """
    costs = json.loads((results / "zoo" / "cost.json").read_text())
    published = json.loads((results / "zoo" / "published.json").read_text())
    measured = _measured(results)
    names = [name for name in model_zoo.list_configs() if not name.endswith(".yaml")]
    lines = [_HEAD]
    for folder in dict.fromkeys(name.split("/")[0] for name in names):
        lines += [
            f"## {folder}",
            "",
            "| config | params M | GMAC | published | table | measured |",
            "|---|---|---|---|---|---|",
        ]
        for name in (n for n in names if n.startswith(f"{folder}/")):
            target, runs = published.get(name), measured.get(name, [])
            ours = "not run"
            if runs:
                means = {m: statistics.mean(r[m] for r in runs) for m in METRICS if all(m in r for r in runs)}
                ours = f"{_numbers(means)} ({len(runs)} runs)"
            size = costs.get(name, {"params_m": "?", "gmac": "?"})
            lines.append(
                f"| [{name.split('/')[1]}](configs/{name}.py) | {size['params_m']} | {size['gmac']} | "
                f"{_numbers(target['metrics']) if target else '–'} | {target['source'] if target else '–'} | {ours} |"
            )
        lines.append("")
    return "\n".join(lines)
