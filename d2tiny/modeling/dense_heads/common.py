"""What dense heads share: targets from an assigner, detections from scores and boxes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import torch
from detectron2.structures import Boxes, Instances
from torch import Tensor

from d2tiny.modeling.assigners import Assigner, Predictions
from d2tiny.modeling.priors import GridPriors
from d2tiny.modeling.targets import split_ignored
from d2tiny.ops.boxes import chunks
from d2tiny.ops.nms import batched_nms

__all__ = ["DenseTargets", "LevelScores", "assign_targets", "check_selection", "detections_of_levels", "ignored_places"]


@dataclass(frozen=True)
class DenseTargets:
    """What the priors of a batch should say.

    Attributes:
        classes: (B, N) int64, class of the positives, K for background, -1 where nothing is learned.
        boxes: (B, N, 4) XYXY, the matched object of positives.
        quality: (B, N) float32, the assigner's score of the match.
    """

    classes: Tensor
    boxes: Tensor
    quality: Tensor


def assign_targets(
    assigner: Assigner,
    priors: GridPriors,
    instances: Sequence[Instances],
    num_classes: int,
    predictions: tuple[Tensor, Tensor] | None = None,
    *,
    points: bool = False,
) -> DenseTargets:
    """Label the priors of each image; ignore regions are where ``gt_ignore`` is set.

    Args:
        assigner: any.
        priors: N of them, of every image.
        instances: ``gt_boxes, gt_classes`` and perhaps ``gt_ignore`` of B images.
        num_classes: K.
        predictions: boxes (B, N, 4) and scores (B, N, K) for assigners that look at them.
        points: priors stand for places; those of :func:`ignored_places` are ignored too.
    """
    classes, boxes, quality = [], [], []
    for i, image in enumerate(instances):
        objects, ignored = split_ignored(image)
        gt = objects.gt_boxes.tensor
        said = None
        if predictions is not None:
            said = Predictions(predictions[0][i], predictions[1][i], objects.gt_classes)
        result = assigner(priors, gt, ignore_boxes=ignored, predictions=said)
        labels = torch.full_like(result.matched_idxs, num_classes)
        labels[result.labels < 0] = -1
        if points and len(ignored) and assigner.ignore_iof_thresh < 1:
            labels[ignored_places(priors, ignored) & (result.labels == 0)] = -1
        box = gt.new_zeros(len(priors), 4)
        if len(gt):
            positive = result.labels == 1
            labels[positive] = objects.gt_classes[result.matched_idxs[positive]]
            box[positive] = gt[result.matched_idxs[positive]]
        classes.append(labels)
        boxes.append(box)
        quality.append(result.quality)
    return DenseTargets(torch.stack(classes), torch.stack(boxes), torch.stack(quality))


def ignored_places(priors: GridPriors, regions: Tensor) -> Tensor:
    """(N,) whether a place lies in an ignore region, or a region's middle in its cell.

    Tiny regions (a cut or shrunk object) cover no prior by half, so the share of the prior's area would never ignore
    anything for them.

    Args:
        priors: on a grid; of anchors the middle counts.
        regions: (R, 4) XYXY.
    """
    boxes, half = priors.boxes(), priors.strides()[:, None] / 2
    centre = (boxes[:, :2] + boxes[:, 2:]) / 2
    result = torch.zeros(len(boxes), dtype=torch.bool, device=boxes.device)
    for part in chunks(len(regions), len(boxes)):
        low, high = regions[part, None, :2].to(centre), regions[part, None, 2:].to(centre)
        inside = ((centre > low) & (centre < high)).all(dim=2)
        middle = (low + high) / 2
        holds = ((middle >= centre - half) & (middle < centre + half)).all(dim=2)
        result |= (inside | holds).any(dim=0)
    return result


@dataclass(frozen=True)
class LevelScores:
    """Predictions of one level of one image.

    Attributes:
        boxes: from indices (m,) of places to their boxes (m, 4), XYXY px: only the best are ever decoded.
        scores: (n, K), by which detections are ranked.
        gate: (n, K) what must be above the threshold; None takes ``scores``.
    """

    boxes: Callable[[Tensor], Tensor]
    scores: Tensor
    gate: Tensor | None = None


def detections_of_levels(
    levels: Iterable[LevelScores],
    size: tuple[int, int],
    *,
    score_thresh: float,
    nms_thresh: float,
    pre_nms_topk: int,
    max_detections: int,
) -> Instances:
    """Detections of an image, by falling score: every class over the threshold, NMS inside each class.

    Args:
        levels: finest first.
        size: height and width of the image.
        score_thresh: scores must be above it.
        nms_thresh: IoU above which the worse detection of a class goes.
        pre_nms_topk: priors of a level that are looked at, by their best score.
        max_detections: of the image.
    """
    found = []
    for level in levels:
        gate = level.scores if level.gate is None else level.gate
        best = level.scores.amax(dim=1).topk(min(pre_nms_topk, len(level.scores))).indices
        row, cls = (gate[best] > score_thresh).nonzero(as_tuple=True)
        found.append((level.boxes(best)[row], level.scores[best[row], cls], cls))
    boxes, score, cls = (torch.cat(parts) for parts in zip(*found, strict=True))
    finite = torch.isfinite(boxes).all(dim=1) & torch.isfinite(score)
    clipped, score, cls = Boxes(boxes[finite]), score[finite], cls[finite]
    clipped.clip(size)
    whole = clipped.nonempty()
    boxes, score, cls = clipped.tensor[whole], score[whole], cls[whole]
    keep = batched_nms(boxes, score, cls, nms_thresh)[:max_detections]
    return Instances(size, pred_boxes=Boxes(boxes[keep]), scores=score[keep], pred_classes=cls[keep])


def check_selection(who: str, score_thresh: float, nms_thresh: float, pre_nms_topk: int, max_detections: int) -> None:
    """Refuse settings of :func:`detections_of_levels` that would find nothing, or everything.

    Raises:
        ValueError: one outside its range.
    """
    if not 0 <= score_thresh < 1 or not 0 <= nms_thresh <= 1 or pre_nms_topk < 1 or max_detections < 1:
        raise ValueError(
            f"{who}: need score_thresh in [0, 1), nms_thresh in [0, 1], pre_nms_topk and max_detections >= 1, got "
            f"{score_thresh}, {nms_thresh}, {pre_nms_topk}, {max_detections}."
        )
