"""Parts that dense heads share: targets from an assigner, detections from scores and boxes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import torch
from detectron2.structures import Boxes, Instances
from torch import Tensor

from d2tiny.modeling.assigners import Assigner, AssignResult, Predictions
from d2tiny.modeling.contracts import DenseTargets
from d2tiny.modeling.priors import GridPriors
from d2tiny.modeling.targets import split_ignored
from d2tiny.ops.boxes import chunks
from d2tiny.ops.nms import batched_nms

__all__ = [
    "LevelPredictions",
    "assign_targets",
    "check_test_settings",
    "in_ignore_regions",
    "select_detections_by_level",
]


def assign_targets(
    assigner: Assigner,
    priors: GridPriors,
    instances: Sequence[Instances],
    num_classes: int,
    predictions: tuple[Tensor, Tensor] | None = None,
    *,
    points: bool = False,
) -> DenseTargets:
    """Label the priors of each image of a batch.

    Args:
        assigner: any label assigner.
        priors: the N priors that all images share.
        instances: ``gt_boxes``, ``gt_classes`` and, with ignore regions, ``gt_ignore`` of B images.
        num_classes: K.
        predictions: boxes (B, N, 4) XYXY in px and scores (B, N, K), for assigners that look at predictions.
        points: the priors stand for points; negatives of :func:`in_ignore_regions` are ignored too.
    """
    classes, boxes, quality = [], [], []
    for i, image in enumerate(instances):
        objects, ignored = split_ignored(image)
        pred = None if predictions is None else Predictions(predictions[0][i], predictions[1][i], objects.gt_classes)
        result = assigner(priors, objects.gt_boxes.tensor, ignore_boxes=ignored, predictions=pred)
        gt_classes, gt_boxes = _targets_of_image(result, objects, num_classes)
        if points and len(ignored) and assigner.ignore_iof_thresh < 1:
            gt_classes[in_ignore_regions(priors, ignored) & (result.labels == 0)] = -1
        classes.append(gt_classes)
        boxes.append(gt_boxes)
        quality.append(result.quality)
    return DenseTargets(torch.stack(classes), torch.stack(boxes), torch.stack(quality))


def _targets_of_image(result: AssignResult, objects: Instances, num_classes: int) -> tuple[Tensor, Tensor]:
    """Return the class (N,) and the matched box (N, 4) of each prior, as in :class:`DenseTargets`."""
    classes = torch.full_like(result.matched_idxs, num_classes)
    classes[result.labels < 0] = -1
    gt = objects.gt_boxes.tensor
    boxes = gt.new_zeros(len(classes), 4)
    if len(gt):
        positive = result.labels == 1
        classes[positive] = objects.gt_classes[result.matched_idxs[positive]]
        boxes[positive] = gt[result.matched_idxs[positive]]
    return classes, boxes


def in_ignore_regions(priors: GridPriors, regions: Tensor) -> Tensor:
    """Return an (N,) mask of the priors whose centre lies in an ignore region, or whose cell holds a region's centre.

    The usual rule, by the share of the prior's area, would never ignore anything for tiny regions (a cropped or
    shrunk object), which do not cover half of any prior.

    Args:
        priors: on a grid; only their centres and strides count.
        regions: (R, 4) XYXY in px.
    """
    boxes, half = priors.boxes(), priors.strides()[:, None] / 2
    centre = (boxes[:, :2] + boxes[:, 2:]) / 2
    mask = torch.zeros(len(boxes), dtype=torch.bool, device=boxes.device)
    for part in chunks(len(regions), len(boxes)):
        low, high = regions[part, None, :2].to(centre), regions[part, None, 2:].to(centre)
        centre_in_region = ((centre > low) & (centre < high)).all(dim=2)
        middle = (low + high) / 2
        region_in_cell = ((middle >= centre - half) & (middle < centre + half)).all(dim=2)
        mask |= (centre_in_region | region_in_cell).any(dim=0)
    return mask


@dataclass(frozen=True)
class LevelPredictions:
    """Predictions of one level of one image; boxes are decoded only for the priors with the best scores.

    Attributes:
        decode_boxes: maps indices (m,) of priors of the level to their boxes (m, 4), XYXY in px.
        scores: (n, K), by which detections are rank_by_score.
        threshold_scores: (n, K), which must be above the threshold; None takes ``scores``.
    """

    decode_boxes: Callable[[Tensor], Tensor]
    scores: Tensor
    threshold_scores: Tensor | None = None


def select_detections_by_level(
    levels: Iterable[LevelPredictions],
    image_size: tuple[int, int],
    *,
    score_thresh: float,
    nms_thresh: float,
    pre_nms_topk: int,
    max_detections: int,
) -> Instances:
    """Select the detections of an image: every class above the threshold, with NMS inside each class.

    Args:
        levels: finest first.
        image_size: (height, width) in px; boxes are clipped to it.
        score_thresh: scores must be above it.
        nms_thresh: IoU above which the detection with the lower score is removed.
        pre_nms_topk: number of priors of a level that are decoded, by their best score.
        max_detections: most detections of the image.

    Returns:
        ``pred_boxes``, ``scores`` and ``pred_classes`` by falling score.
    """
    candidates = []
    for level in levels:
        above = level.scores if level.threshold_scores is None else level.threshold_scores
        topk = level.scores.amax(dim=1).topk(min(pre_nms_topk, len(level.scores))).indices
        row, cls = (above[topk] > score_thresh).nonzero(as_tuple=True)
        candidates.append((level.decode_boxes(topk)[row], level.scores[topk[row], cls], cls))
    boxes, score, cls = (torch.cat(parts) for parts in zip(*candidates, strict=True))
    finite = torch.isfinite(boxes).all(dim=1) & torch.isfinite(score)
    clipped, score, cls = Boxes(boxes[finite]), score[finite], cls[finite]
    clipped.clip(image_size)
    nonempty = clipped.nonempty()
    boxes, score, cls = clipped.tensor[nonempty], score[nonempty], cls[nonempty]
    keep = batched_nms(boxes, score, cls, nms_thresh)[:max_detections]
    return Instances(image_size, pred_boxes=Boxes(boxes[keep]), scores=score[keep], pred_classes=cls[keep])


def check_test_settings(
    owner: str, score_thresh: float, nms_thresh: float, pre_nms_topk: int, max_detections: int
) -> None:
    """Refuse settings of :func:`select_detections_by_level` that would detect nothing, or everything.

    Raises:
        ValueError: a setting outside its range.
    """
    if not 0 <= score_thresh < 1 or not 0 <= nms_thresh <= 1 or pre_nms_topk < 1 or max_detections < 1:
        raise ValueError(
            f"{owner}: need score_thresh in [0, 1), nms_thresh in [0, 1], pre_nms_topk and max_detections >= 1, got "
            f"{score_thresh}, {nms_thresh}, {pre_nms_topk}, {max_detections}."
        )
