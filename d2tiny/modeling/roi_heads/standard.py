"""ROI heads with ignore regions."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from detectron2.config import configurable
from detectron2.modeling.poolers import ROIPooler
from detectron2.modeling.proposal_generator.proposal_utils import add_ground_truth_to_proposals
from detectron2.modeling.roi_heads import ROI_HEADS_REGISTRY, StandardROIHeads
from detectron2.structures import Instances
from detectron2.utils.events import get_event_storage

from d2tiny.layers.folding import prepare_for_inference
from d2tiny.modeling.roi_heads.fast_rcnn import TinyFastRCNNOutputLayers
from d2tiny.modeling.roi_heads.matching import match_proposals
from d2tiny.modeling.roi_heads.pooling import TinyROIPooler
from d2tiny.modeling.targets import split_ignored
from d2tiny.ops.boxes import max_iof

__all__ = ["TinyStandardROIHeads"]


@ROI_HEADS_REGISTRY.register()
class TinyStandardROIHeads(StandardROIHeads):
    """Detectron2's box head with ignore regions; any box loss through its predictor.

    A proposal that matches no object and has more than ``IGNORE_IOF`` of its own area in one ignore region is
    neither foreground nor background.
    """

    IGNORE_IOF = 0.5
    box_pooler: TinyROIPooler

    @configurable
    def __init__(self, *, box_pooler: ROIPooler, match_nwd: float | None = None, **kwargs: Any) -> None:
        """Build the heads.

        Args:
            box_pooler: Detectron2's pooler, whose settings :class:`TinyROIPooler` takes over.
            match_nwd: C in px; proposals are then matched by NWD instead of IoU (NWD paper, second stage).
            **kwargs: those of ``StandardROIHeads``.

        Raises:
            ValueError: C that is not positive, or a pooler of other levels than ``box_in_features``.
        """
        super().__init__(box_pooler=TinyROIPooler(box_pooler), **kwargs)
        if match_nwd is not None and match_nwd <= 0:
            raise ValueError(f"TinyStandardROIHeads: match_nwd must be > 0 px, got {match_nwd}.")
        self.match_nwd = match_nwd
        levels = len(box_pooler.level_poolers)
        if len(self.box_in_features) != levels:
            raise ValueError(
                f"{type(self).__name__}: box_in_features {self.box_in_features}, but box_pooler has {levels} scales."
            )
        prepare_for_inference(self)

    @classmethod
    def from_config(cls, cfg, input_shape):  # type: ignore[no-untyped-def]  # noqa: D102
        ret = super().from_config(cfg, input_shape)
        ret["match_nwd"] = cfg.MODEL.NWD.CONSTANT if cfg.MODEL.ROI_HEADS.MATCH_BY_NWD else None
        return ret

    @classmethod
    def _init_box_head(cls, cfg, input_shape):  # type: ignore[no-untyped-def]
        ret = super()._init_box_head(cfg, input_shape)
        ret["box_predictor"] = TinyFastRCNNOutputLayers(cfg, ret["box_head"].output_shape)
        return ret

    def _forward_box(self, features, proposals):  # type: ignore[no-untyped-def]
        """Return the losses of the batch in training, else the detections of each image."""
        # In float32: Detectron2 casts the boxes to the features' type, and bfloat16 moves them by pixels.
        features = {name: features[name].float() for name in self.box_in_features}
        if self.training:
            return super()._forward_box(features, proposals)
        predictions = self._predict(list(features.values()), proposals, self.box_head, self.box_predictor)
        return self.box_predictor.inference(predictions, proposals)[0]

    def _predict(
        self, maps: list[torch.Tensor], proposals: list[Instances], head: torch.nn.Module, predictor: torch.nn.Module
    ) -> tuple[torch.Tensor, ...]:
        """Return class scores and deltas of all proposals; without gradients in parts, to save memory."""
        size = None if torch.is_grad_enabled() else 512
        pooled = self.box_pooler.chunks(maps, [p.proposal_boxes for p in proposals], size)
        return tuple(torch.cat(parts) for parts in zip(*(predictor(head(chunk)) for chunk in pooled), strict=True))

    @torch.no_grad()
    def label_and_sample_proposals(self, proposals: list[Instances], targets: list[Instances]) -> list[Instances]:
        """Match proposals with objects and sample a batch from each image.

        Args:
            proposals: with ``proposal_boxes`` and ``objectness_logits``.
            targets: ground truth with ``gt_boxes`` and ``gt_classes``; ignore regions are where ``gt_ignore`` is set.

        Returns:
            The sampled proposals with ``gt_classes`` (K is background) and, where the image has objects, ``gt_boxes``.
        """
        split = [split_ignored(t) for t in targets]
        objects = [s[0] for s in split]
        if self.proposal_append_gt:
            proposals = add_ground_truth_to_proposals(objects, proposals)
        sampled, num_fg, num_bg = [], [], []
        for proposal, target, (_, ignored) in zip(proposals, objects, split, strict=True):
            boxes = proposal.proposal_boxes.tensor
            matched, labels = match_proposals(self.proposal_matcher, target.gt_boxes.tensor, boxes, self.match_nwd)
            index, classes = self._sample_with_ignored(
                matched, labels, target.gt_classes, max_iof(boxes, ignored) > self.IGNORE_IOF
            )
            result = proposal[index]
            result.gt_classes = classes
            if len(target):
                result.gt_boxes = target.gt_boxes[matched[index]]
            background = int((classes == self.num_classes).sum())
            num_bg.append(background)
            num_fg.append(len(classes) - background)
            sampled.append(result)
        storage = get_event_storage()
        storage.put_scalar("roi_head/num_fg_samples", np.mean(num_fg))
        storage.put_scalar("roi_head/num_bg_samples", np.mean(num_bg))
        return sampled

    def _sample_with_ignored(
        self,
        matched: torch.Tensor,
        labels: torch.Tensor,
        gt_classes: torch.Tensor,
        in_ignored: torch.Tensor,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Drop unmatched proposals in ignore regions, then sample as Detectron2 does; return indices and classes."""
        keep = (~(in_ignored & (labels == 0))).nonzero().flatten()
        index, classes = self._sample_proposals(matched[keep], labels[keep], gt_classes)
        return keep[index], classes
