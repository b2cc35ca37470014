"""Cascade R-CNN heads with ignore regions and any box loss in each stage."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from detectron2.config import configurable
from detectron2.modeling.box_regression import Box2BoxTransform
from detectron2.modeling.roi_heads import ROI_HEADS_REGISTRY, CascadeROIHeads
from detectron2.modeling.roi_heads.cascade_rcnn import _ScaleGradient
from detectron2.structures import Boxes, Instances
from detectron2.utils.events import get_event_storage
from torch import Tensor

from d2tiny.modeling.roi_heads.fast_rcnn import TinyFastRCNNOutputLayers, select_detections
from d2tiny.modeling.roi_heads.matching import match_proposals
from d2tiny.modeling.roi_heads.standard import TinyStandardROIHeads
from d2tiny.modeling.targets import split_ignored
from d2tiny.ops.boxes import max_iof

__all__ = ["TinyCascadeROIHeads"]


@ROI_HEADS_REGISTRY.register()
class TinyCascadeROIHeads(TinyStandardROIHeads, CascadeROIHeads):
    """Several box heads in a row, each on the boxes of the previous one and with a stricter matcher.

    Differences from Detectron2's heads: the losses of the stages are weighted (1, 0.5, 0.25 in the AI-TOD papers),
    while scaling the gradients of the features is an option; boxes in ignore regions are not trained in any stage.
    """

    @configurable
    def __init__(
        self,
        *,
        box_heads: Sequence[torch.nn.Module],
        box_predictors: Sequence[TinyFastRCNNOutputLayers],
        stage_loss_weights: Sequence[float] = (1.0, 0.5, 0.25),
        scale_gradient: bool = False,
        **kwargs: Any,
    ) -> None:
        """Build the heads.

        Args:
            box_heads: one for each stage.
            box_predictors: one for each stage, class-agnostic, with the stage's box coder and box loss.
            stage_loss_weights: factor on the losses of each stage.
            scale_gradient: divide the gradients of the features by the number of stages.
            **kwargs: ``box_in_features``, ``box_pooler``, ``proposal_matchers`` and those of
                :class:`TinyStandardROIHeads`.

        Raises:
            ValueError: stages, weights and matchers differ in number, a weight is negative, or a predictor is not
                class-agnostic.
        """
        if not len(box_heads) == len(box_predictors) == len(stage_loss_weights):
            raise ValueError(
                f"TinyCascadeROIHeads: {len(box_heads)} box_heads, {len(box_predictors)} box_predictors and "
                f"{len(stage_loss_weights)} stage_loss_weights; each stage needs one."
            )
        if not all(isinstance(weight, int | float) and weight >= 0 for weight in stage_loss_weights):
            raise ValueError(f"TinyCascadeROIHeads: stage_loss_weights must be >= 0, got {list(stage_loss_weights)}.")
        matchers = kwargs.get("proposal_matchers", box_heads)
        if len(matchers) != len(box_heads):
            raise ValueError(f"TinyCascadeROIHeads: {len(matchers)} proposal_matchers, {len(box_heads)} stages.")
        if any(predictor.bbox_pred.out_features != 4 for predictor in box_predictors):
            raise ValueError("TinyCascadeROIHeads: box_predictors need cls_agnostic_bbox_reg=True.")
        super().__init__(box_heads=list(box_heads), box_predictors=list(box_predictors), **kwargs)
        self.stage_loss_weights = tuple(stage_loss_weights)
        self.scale_gradient = scale_gradient

    @classmethod
    def from_config(cls, cfg, input_shape):  # type: ignore[no-untyped-def]  # noqa: D102
        ret = super().from_config(cfg, input_shape)
        ret["stage_loss_weights"] = cfg.MODEL.ROI_BOX_CASCADE_HEAD.STAGE_LOSS_WEIGHTS
        ret["scale_gradient"] = cfg.MODEL.ROI_BOX_CASCADE_HEAD.SCALE_GRADIENT
        return ret

    @classmethod
    def _init_box_head(cls, cfg, input_shape):  # type: ignore[no-untyped-def]
        ret = CascadeROIHeads._init_box_head.__func__(cls, cfg, input_shape)
        ret["box_predictors"] = [
            TinyFastRCNNOutputLayers(cfg, head.output_shape, box2box_transform=Box2BoxTransform(weights=weights))
            for head, weights in zip(ret["box_heads"], cfg.MODEL.ROI_BOX_CASCADE_HEAD.BBOX_REG_WEIGHTS, strict=True)
        ]
        return ret

    def _forward_box(self, features, proposals, targets=None):  # type: ignore[no-untyped-def]
        """Return the losses of all stages in training, else the detections of each image."""
        # In float32 as in TinyStandardROIHeads.
        maps = [features[name].float() for name in self.box_in_features]
        image_sizes = [p.image_size for p in proposals]
        losses: dict[str, Tensor] = {}
        scores: list[tuple[Tensor, ...]] = []
        boxes: tuple[Tensor, ...] = ()
        for stage, predictor in enumerate(self.box_predictor):
            if stage:
                proposals = self._create_proposals_from_boxes(boxes, image_sizes)
                if self.training:
                    proposals = self._match_and_label_boxes(proposals, stage, targets)
            predictions = self._run_stage(maps, proposals, stage)
            boxes = predictor.predict_boxes(predictions, proposals)
            if self.training:
                with get_event_storage().name_scope(f"stage{stage}"):
                    stage_losses = predictor.losses(predictions, proposals)
                weight = self.stage_loss_weights[stage]
                losses.update({f"{name}_stage{stage}": weight * value for name, value in stage_losses.items()})
            else:
                scores.append(predictor.predict_probs(predictions, proposals))
        if self.training:
            return losses
        last = self.box_predictor[-1]
        return [
            select_detections(
                image_boxes.float(),
                torch.stack(image_scores).float().mean(dim=0),
                size,
                last.test_score_thresh,
                last.test_nms_thresh,
                last.test_topk_per_image,
            )[0]
            for image_boxes, size, *image_scores in zip(boxes, image_sizes, *scores, strict=True)
        ]

    def _run_stage(self, features, proposals, stage):  # type: ignore[no-untyped-def]
        """Return class scores and deltas of the stage's head for all proposals."""
        if not self.training:
            return self._predict(features, proposals, self.box_head[stage], self.box_predictor[stage])
        pooled = self.box_pooler(features, [p.proposal_boxes for p in proposals])
        if self.scale_gradient:
            pooled = _ScaleGradient.apply(pooled, 1.0 / self.num_cascade_stages)
        return self.box_predictor[stage](self.box_head[stage](pooled))

    @torch.no_grad()
    def _match_and_label_boxes(
        self, proposals: list[Instances], stage: int, targets: list[Instances]
    ) -> list[Instances]:
        """Match the boxes of the previous stage; unmatched ones in ignore regions are dropped."""
        matched_proposals, num_fg, num_bg = [], [], []
        for proposal, target in zip(proposals, targets, strict=True):
            objects, ignored = split_ignored(target)
            boxes = proposal.proposal_boxes.tensor
            matched, labels = match_proposals(
                self.proposal_matchers[stage], objects.gt_boxes.tensor, boxes, self.match_nwd
            )
            keep = (labels == 1) | (max_iof(boxes, ignored) <= self.IGNORE_IOF)
            result, matched, labels = proposal[keep], matched[keep], labels[keep]
            result.gt_classes = torch.full_like(matched, self.num_classes)
            result.gt_boxes = Boxes(result.proposal_boxes.tensor.clone())
            if len(objects):
                result.gt_classes = torch.where(labels == 1, objects.gt_classes[matched], result.gt_classes)
                result.gt_boxes = objects.gt_boxes[matched]
            matched_proposals.append(result)
            num_fg.append(int((labels == 1).sum()))
            num_bg.append(len(labels) - num_fg[-1])
        storage = get_event_storage()
        storage.put_scalar(f"stage{stage}/roi_head/num_fg_samples", np.mean(num_fg))
        storage.put_scalar(f"stage{stage}/roi_head/num_bg_samples", np.mean(num_bg))
        return matched_proposals
