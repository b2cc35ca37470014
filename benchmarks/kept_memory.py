#!/usr/bin/env python
"""Measure what a training step of DINO keeps for its backward pass, by the parts that are recomputed instead.

    python benchmarks/kept_memory.py
    python benchmarks/kept_memory.py --config aitod/scalebridge_r50_5scale_12e --size 512

Counted are the bytes of all tensors that autograd holds after the forward pass of one image with 100 objects, in
float32, without weights, on a processor; kernels need some more while they run. Results go
to ``results/models/kept_memory_CONFIG.json``.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from common import RESULTS, make_parser, write_record
from detectron2.config import instantiate
from detectron2.utils.events import EventStorage
from timing import batch

from d2tiny.config import apply_overrides, load_config

PARTS = {  # the largest first; the setting of a part, where a config has it
    "encoder": "model.encoder.checkpointing",
    "decoder": "model.decoder.checkpointing",
    "routing": "model.routing.checkpointing",
    "backbone": "model.backbone.backbone.checkpointing",
}


def kept_gb(model: Any, data: list[dict[str, Any]]) -> float:
    """Return the GB that autograd holds after a forward pass."""
    kept: dict[int, tuple[torch.UntypedStorage, int]] = {}

    def keep(x: torch.Tensor) -> torch.Tensor:
        storage = x.untyped_storage()
        kept[storage._cdata] = storage, storage.nbytes()  # held, so that no other takes its address
        return x

    weights = {x.untyped_storage()._cdata for x in (*model.parameters(), *model.buffers())}
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda x: x), EventStorage(0):
        losses = model(data)
    size = sum(count for place, (_, count) in kept.items() if place not in weights)
    del losses
    return round(size / 1e9, 2)


def main() -> None:
    """Measure the config with more and more parts recomputed, print a table and write the record."""
    parser = make_parser(__doc__)
    parser.add_argument("--config", default="aitod/dino_swin_t_5scale_12e")
    parser.add_argument("--size", type=int, default=800, help="px of a side")
    args = parser.parse_args()
    torch.set_num_threads(1)
    rows: dict[str, float] = {}
    known = load_config(args.config)
    parts = [part for part in PARTS if part != "routing" or known.model.routing is not None]
    if "TimmBackbone" not in str(known.model.backbone.backbone._target_):
        parts.remove("backbone")
    for count in range(len(parts) + 1):
        cfg = apply_overrides(load_config(args.config), [f"{PARTS[part]}=true" for part in parts[:count]])
        torch.manual_seed(0)
        title = ", ".join(parts[:count]) or "nothing"
        rows[title] = kept_gb(instantiate(cfg.model).train(), batch(100, args.size))
        print(f"| {title} | {rows[title]} GB |", flush=True)
    path = RESULTS / "models" / f"kept_memory_{Path(args.config).name}.json"
    write_record(path, config=args.config, size=args.size, kept_gb=rows)


if __name__ == "__main__":
    main()
