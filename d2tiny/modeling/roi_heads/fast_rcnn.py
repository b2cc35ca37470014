"""Box predictor with any box loss, and detection selection that stays exact on large scenes."""

from __future__ import annotations

from typing import Any

import torch
from detectron2.config import configurable
from detectron2.layers import ShapeSpec
from detectron2.modeling.roi_heads.fast_rcnn import FastRCNNOutputLayers
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
            box_loss: on encoded deltas or decoded boxes; L1 by default.
            **kwargs: those of ``FastRCNNOutputLayers`` without its loss settings.
        """
        super().__init__(input_shape, **kwargs)
        self._images: Tensor | None = None
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
        # The parent knows only its own losses, and does not use this one.
        ret["box_reg_loss_type"] = "smooth_l1"
        weight = head.BBOX_REG_LOSS_WEIGHT
        ret["loss_weight"] = {"loss_box_reg": weight}
        return ret

    def box_reg_loss(self, proposal_boxes: Tensor, gt_boxes: Tensor, pred_deltas: Tensor, gt_classes: Tensor) -> Tensor:
        """Box loss of the foreground proposals, divided by the number of all sampled ones.

        Args:
            proposal_boxes: (R, 4).
            gt_boxes: (R, 4), of the matched object.
            pred_deltas: (R, 4) or (R, K·4).
            gt_classes: (R,) in [0, K]; K is background.
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
            groups=None if self._images is None else self._images[fg],
        )

    def losses(self, predictions: tuple[Tensor, Tensor], proposals: list[Instances]) -> dict[str, Tensor]:
        """Detectron2's losses; remembers which image each proposal is of for losses that look at images."""
        counts = torch.tensor([len(p) for p in proposals], device=predictions[0].device)
        self._images = torch.repeat_interleave(torch.arange(len(proposals), device=counts.device), counts)
        try:
            return super().losses(predictions, proposals)
        finally:
            self._images = None

    def inference(
        self, predictions: tuple[Tensor, Tensor], proposals: list[Instances]
    ) -> tuple[list[Instances], list[Tensor]]:
        """Return the detections of each image and the indices of their proposals."""
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
    """Threshold, suppress class by class, keep the best.

    Args:
        boxes: (R, 4) or (R, K·4) decoded boxes.
        scores: (R, K+1) probabilities, background last.
        image_size: height, width in px; boxes are clipped to it.
        score_thresh: detections must score above it.
        nms_thresh: IoU above which the worse detection of a class goes.
        topk: most detections of an image; negative keeps all.

    Returns:
        ``pred_boxes``, ``scores``, ``pred_classes`` by falling score, and their rows in ``boxes``.
    """
    finite = (torch.isfinite(boxes).all(dim=1) & torch.isfinite(scores).all(dim=1)).nonzero().flatten()
    boxes, scores = boxes[finite], scores[finite, :-1]
    clipped = Boxes(boxes.reshape(-1, 4))
    clipped.clip(image_size)
    per_class = clipped.tensor.view(len(boxes), boxes.shape[1] // 4, 4)  # (R, 1 or K, 4)
    row, cls = (scores > score_thresh).nonzero(as_tuple=True)
    chosen = per_class[row, cls if per_class.shape[1] > 1 else torch.zeros_like(cls)]
    keep = batched_nms(chosen, scores[row, cls], cls, nms_thresh)
    if topk >= 0:
        keep = keep[:topk]
    result = Instances(image_size)
    result.pred_boxes = Boxes(chosen[keep])
    result.scores = scores[row, cls][keep]
    result.pred_classes = cls[keep]
    return result, finite[row[keep]]
