"""Box predictor with any box loss, and a selection of detections that stays exact on large scenes."""

from __future__ import annotations

from typing import Any

import torch
from detectron2.config import configurable
from detectron2.layers import ShapeSpec, cat, cross_entropy
from detectron2.modeling.roi_heads.fast_rcnn import FastRCNNOutputLayers, _log_classification_stats
from detectron2.structures import Boxes, Instances
from torch import Tensor

from d2tiny.modeling.build import build_box_loss
from d2tiny.modeling.losses import BoxLoss, SmoothL1Loss, regression_loss
from d2tiny.ops.nms import batched_nms

__all__ = ["TinyFastRCNNOutputLayers", "select_detections"]


class TinyFastRCNNOutputLayers(FastRCNNOutputLayers):
    """Detectron2's box predictor with an exchangeable box loss."""

    @configurable
    def __init__(self, input_shape: ShapeSpec, *, box_loss: BoxLoss | None = None, **kwargs: Any) -> None:
        """Build the two linear layers.

        Args:
            input_shape: shape of the box feature.
            box_loss: on encoded deltas or decoded boxes, as its ``space`` says; L1 by default.
            **kwargs: those of ``FastRCNNOutputLayers`` without its settings of the box loss.
        """
        super().__init__(input_shape, **kwargs)
        self.box_loss = box_loss if box_loss is not None else SmoothL1Loss()

    @classmethod
    def from_config(cls, cfg, input_shape):  # type: ignore[no-untyped-def]  # noqa: D102
        ret = super().from_config(cfg, input_shape)
        head = cfg.MODEL.ROI_BOX_HEAD
        ret["box_loss"] = build_box_loss(
            cfg,
            head.BBOX_REG_LOSS_TYPE,
            head.SMOOTH_L1_BETA,
            "MODEL.ROI_BOX_HEAD.BBOX_REG_LOSS_TYPE",
        )
        # The parent accepts only the names of its own losses; it does not use this one.
        ret["box_reg_loss_type"] = "smooth_l1"
        weight = head.BBOX_REG_LOSS_WEIGHT
        ret["loss_weight"] = {"loss_box_reg": weight}
        return ret

    def box_reg_loss(
        self,
        proposal_boxes: Tensor,
        gt_boxes: Tensor,
        pred_deltas: Tensor,
        gt_classes: Tensor,
        groups: Tensor | None = None,
    ) -> Tensor:
        """Compute the box loss of the foreground proposals, divided by the number of all sampled proposals.

        Args:
            proposal_boxes: (R, 4) XYXY in px.
            gt_boxes: (R, 4) XYXY in px, the matched objects.
            pred_deltas: (R, 4), or (R, K·4) with deltas for each class.
            gt_classes: (R,) in [0, K]; K is background.
            groups: (R,) int64, image of each proposal, for losses that compare the boxes of an image.
        """
        fg = ((gt_classes >= 0) & (gt_classes < self.num_classes)).nonzero().flatten()
        if pred_deltas.shape[1] == 4:
            deltas = pred_deltas[fg]
        else:
            deltas = pred_deltas.view(-1, self.num_classes, 4)[fg, gt_classes[fg]]
        return regression_loss(
            self.box_loss,
            self.box2box_transform,
            deltas,
            proposal_boxes[fg],
            gt_boxes[fg],
            avg_factor=max(gt_classes.numel(), 1.0),
            groups=None if groups is None else groups[fg],
        )

    def losses(self, predictions: tuple[Tensor, Tensor], proposals: list[Instances]) -> dict[str, Tensor]:
        """Return ``loss_cls`` and ``loss_box_reg``, as Detectron2 computes and logs them.

        Args:
            predictions: class scores (R, K + 1) and deltas (R, 4) or (R, K·4) of all proposals of the batch.
            proposals: with ``proposal_boxes``, ``gt_classes`` and, in images with objects, ``gt_boxes``.
        """
        scores, pred_deltas = predictions
        gt_classes = cat([p.gt_classes for p in proposals])
        _log_classification_stats(scores, gt_classes)
        proposal_boxes = cat([p.proposal_boxes.tensor for p in proposals])
        # Without gt_boxes all proposals of an image are background, whose boxes the loss does not use.
        gt_boxes = cat([(p.gt_boxes if p.has("gt_boxes") else p.proposal_boxes).tensor for p in proposals])
        counts = torch.tensor([len(p) for p in proposals], device=scores.device)
        image_idxs = torch.repeat_interleave(torch.arange(len(proposals), device=scores.device), counts)
        if getattr(self, "use_sigmoid_ce", False):  # not in every release of Detectron2
            loss_cls = self.sigmoid_cross_entropy_loss(scores, gt_classes)
        else:
            loss_cls = cross_entropy(scores, gt_classes, reduction="mean")
        losses = {
            "loss_cls": loss_cls,
            "loss_box_reg": self.box_reg_loss(proposal_boxes, gt_boxes, pred_deltas, gt_classes, image_idxs),
        }
        return {name: loss * self.loss_weight.get(name, 1.0) for name, loss in losses.items()}

    def inference(
        self, predictions: tuple[Tensor, Tensor], proposals: list[Instances]
    ) -> tuple[list[Instances], list[Tensor]]:
        """Return the detections of each image by falling score, and the indices (D,) of their proposals."""
        results = [
            select_detections(
                boxes.float(),
                scores.float(),
                p.image_size,
                self.test_score_thresh,
                self.test_nms_thresh,
                self.test_topk_per_image,
            )
            for boxes, scores, p in zip(
                self.predict_boxes(predictions, proposals),
                self.predict_probs(predictions, proposals),
                proposals,
                strict=True,
            )
        ]
        return [r[0] for r in results], [r[1] for r in results]


def select_detections(
    boxes: Tensor,
    scores: Tensor,
    image_size: tuple[int, int],
    score_thresh: float,
    nms_thresh: float,
    topk: int,
) -> tuple[Instances, Tensor]:
    """Select the detections of an image by score threshold, NMS inside each class, and top-k.

    Args:
        boxes: (R, 4) or (R, K·4) decoded boxes, XYXY in px.
        scores: (R, K+1) probabilities, background last.
        image_size: (height, width) in px; boxes are clipped to it.
        score_thresh: scores of detections must be above it.
        nms_thresh: IoU above which the detection with the lower score is removed.
        topk: most detections of the image; negative keeps all.

    Returns:
        ``pred_boxes``, ``scores``, ``pred_classes`` by falling score, and their rows (D,) in ``boxes``.
    """
    finite = (torch.isfinite(boxes).all(dim=1) & torch.isfinite(scores).all(dim=1)).nonzero().flatten()
    boxes, scores = boxes[finite], scores[finite, :-1]
    clipped = Boxes(boxes.reshape(-1, 4))
    clipped.clip(image_size)
    per_class = clipped.tensor.view(len(boxes), boxes.shape[1] // 4, 4)  # (R, 1 or K, 4)
    row, cls = (scores > score_thresh).nonzero(as_tuple=True)
    candidates = per_class[row, cls if per_class.shape[1] > 1 else torch.zeros_like(cls)]
    keep = batched_nms(candidates, scores[row, cls], cls, nms_thresh)
    if topk >= 0:
        keep = keep[:topk]
    result = Instances(image_size)
    result.pred_boxes = Boxes(candidates[keep])
    result.scores = scores[row, cls][keep]
    result.pred_classes = cls[keep]
    return result, finite[row[keep]]
