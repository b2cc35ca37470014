"""What kinds of operations the processor time of a model goes to.

PyTorch's profiler measures the time on the wall, which a machine that other work shares makes useless. Here every
operator is timed by the processor time of the process, so that one thread gives what a quiet machine would.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable
from typing import Any

from torch.utils._python_dispatch import TorchDispatchMode

# Kind -> beginnings of operators' names; the first that fits counts.
KINDS = {
    "convolutions": ("convolution", "mkldnn_convolution", "_convolution"),
    "products": ("addmm", "mm", "bmm", "baddbmm", "linear", "_linear", "_scaled_dot", "_flash"),
    "deformable": ("deform_conv2d", "_deform_conv2d", "grid_sampler"),
    "RoIAlign": ("roi_align", "_roi_align"),
    "norms": ("native_batch", "native_layer", "native_group", "batch_norm", "_native_batch"),
    "activations": ("relu", "silu", "sigmoid", "clamp_min", "threshold", "gelu", "softmax", "_softmax"),
    "pooling, resizing": ("max_pool", "avg_pool", "adaptive", "upsample", "_adaptive", "mean", "reflection"),
    "sums of maps": ("add", "mul", "div", "sub"),
    "copies": ("copy_", "cat", "clone", "fill_", "zero_", "constant_pad", "_to_copy", "stack", "zeros", "new_zeros"),
    "optimizer": ("_fused", "_foreach"),
}


class KindClock:
    """Adds up processor time by kind: of operators, and of whole functions."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        self._inside = False

    def scoped(self, kind: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """Return the function such that all of its time counts as one kind."""

        def wrapper(*args: Any, **kwargs: Any) -> Any:
            if self._inside:
                return function(*args, **kwargs)
            self._inside, start = True, time.process_time()
            try:
                return function(*args, **kwargs)
            finally:
                self.seconds[kind] += time.process_time() - start
                self._inside = False

        return wrapper

    def measure(self, function: Callable[[], Any], runs: int) -> dict[str, Any]:
        """Return milliseconds of each kind, the least of some runs each, and what is not convolution or product."""
        totals, kinds = [], []
        function()
        for _ in range(runs):
            start = time.process_time()
            function()
            totals.append(time.process_time() - start)
            self.seconds.clear()
            with _Timed(self):
                function()
            kinds.append(dict(self.seconds))
        best = {kind: min(run.get(kind, 0.0) for run in kinds) for kind in kinds[0]}
        best["Python and others"] = max(0.0, min(totals) - sum(best.values()))
        total = sum(best.values())
        products = best.get("convolutions", 0.0) + best.get("products", 0.0)
        table: dict[str, Any] = {kind: round(1e3 * value, 1) for kind, value in best.items()}
        return {**table, "total": round(1e3 * total, 1), "rest": round(1 - products / total, 4)}


class _Timed(TorchDispatchMode):
    def __init__(self, clock: KindClock) -> None:
        super().__init__()
        self.clock = clock

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        start = time.process_time()
        result = func(*args, **(kwargs or {}))
        if not self.clock._inside:
            name = func.name().rsplit("::", 1)[-1]
            kind = next((kind for kind, starts in KINDS.items() if name.startswith(starts)), "Python and others")
            self.clock.seconds[kind] += time.process_time() - start
        return result


def watch_parts(clock: KindClock, model: Any) -> None:
    """Let the clock count images, decoding with NMS, RoIAlign and deformable attention as kinds of their own."""
    from d2tiny.layers import deform_attn
    from d2tiny.modeling.roi_heads import cascade, fast_rcnn, pooling

    parts: list[tuple[Any, str, str]] = [
        (fast_rcnn, "select_detections", "decoding, NMS"),
        (cascade, "select_detections", "decoding, NMS"),
        (pooling, "roi_align", "RoIAlign"),
        (deform_attn, "fused_deform_attn", "deformable"),
        (model, "preprocess_image", "image"),
        (model, "_preprocess", "image"),
        (getattr(model, "proposal_generator", None), "predict_proposals", "decoding, NMS"),
        (getattr(model, "head", None), "decode", "decoding, NMS"),
        (getattr(model, "head", None), "targets", "assignment"),
        (getattr(model, "proposal_generator", None), "label_and_sample_anchors", "assignment"),
        (getattr(model, "roi_heads", None), "label_and_sample_proposals", "assignment"),
    ]
    for owner, name, kind in parts:
        if owner is not None and hasattr(owner, name):
            setattr(owner, name, clock.scoped(kind, getattr(owner, name)))
