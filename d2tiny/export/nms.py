"""Non-maximum suppression as one operator of an exported graph, with a result of fixed shape.

``d2tiny::grouped_nms`` maps G groups of N boxes to a mask (G, N): graphs of fixed shapes need no sizes that depend on
the values of tensors. In ONNX it is ``NonMaxSuppression``, whose batches are the groups; in TorchScript a loop over
torchvision's operator.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torchvision  # noqa: F401  (registers torchvision::nms, which the script below names)
from torch import Tensor

from d2tiny.ops.nms import batched_nms

__all__ = ["LOWEST", "grouped_nms", "onnx_translations"]

LOWEST = -3.0e38  # scores must be above it; −∞ marks places without a box


@torch.library.custom_op("d2tiny::grouped_nms", mutates_args=())
def _grouped_nms(boxes: Tensor, scores: Tensor, iou_threshold: float, score_threshold: float) -> Tensor:
    keep = torch.zeros(scores.shape, dtype=torch.bool)
    for group in range(len(scores)):
        index = (scores[group] > score_threshold).nonzero().flatten()
        kept = batched_nms(boxes[group, index], scores[group, index], torch.zeros_like(index), iou_threshold)
        keep[group, index[kept]] = True
    return keep


@_grouped_nms.register_fake
def _(boxes: Tensor, scores: Tensor, iou_threshold: float, score_threshold: float) -> Tensor:
    return torch.empty(scores.shape, dtype=torch.bool, device=scores.device)


def _loop_of_nms(boxes: Tensor, scores: Tensor, iou_threshold: float, score_threshold: float) -> Tensor:
    keep = torch.zeros_like(scores, dtype=torch.bool)
    for group in range(scores.size(0)):
        index = torch.nonzero(scores[group] > score_threshold).flatten()
        kept = torch.ops.torchvision.nms(boxes[group][index], scores[group][index], iou_threshold)
        keep[group][index[kept]] = True
    return keep


_scripted: Any = None


def _compile_loop() -> None:
    """Compile the loop when it is first needed."""
    global _scripted
    _scripted = _scripted or torch.jit.script(_loop_of_nms)


def grouped_nms(boxes: Tensor, scores: Tensor, iou_threshold: float, score_threshold: float = LOWEST) -> Tensor:
    """Return which boxes greedy NMS keeps in each group.

    Args:
        boxes: (G, N, 4) XYXY in px.
        scores: (G, N).
        iou_threshold: a box is suppressed if its IoU with a kept one of its group with a higher score exceeds this.
        score_threshold: only boxes with scores above it take part.

    Returns:
        (G, N) boolean.
    """
    if torch.jit.is_tracing():
        _compile_loop()
    operator: Callable[..., Tensor] = _scripted if torch.jit.is_tracing() else torch.ops.d2tiny.grouped_nms
    return operator(boxes, scores, iou_threshold, score_threshold)


def onnx_translations() -> dict[Any, Any]:
    """Return what ``torch.onnx.export`` makes of our operators."""
    import onnxscript

    op: Any = onnxscript.opset20

    def grouped(boxes: Any, scores: Any, iou_threshold: float, score_threshold: float) -> Any:
        shape = op.Shape(scores)
        most = op.Gather(shape, op.Constant(value_ints=[1]))
        limits = (op.Constant(value_floats=[iou_threshold]), op.Constant(value_floats=[score_threshold]))
        chosen = op.NonMaxSuppression(boxes, op.Unsqueeze(scores, op.Constant(value_ints=[1])), most, *limits)
        places = op.Gather(chosen, op.Constant(value_ints=[0, 2]), axis=1)  # (kept, 2): group and box
        ones = op.Expand(op.Constant(value_ints=[1]), op.Gather(op.Shape(places), op.Constant(value_ints=[0])))
        empty = op.Expand(op.Constant(value_ints=[0]), shape)
        return op.Cast(op.ScatterND(empty, places, ones), to=9)  # 9 is BOOL

    return {torch.ops.d2tiny.grouped_nms.default: grouped}
