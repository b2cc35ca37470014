"""Graphs of Faster R-CNN, Cascade R-CNN and DetectoRS."""

from __future__ import annotations

from typing import Any

import torch
from detectron2.modeling.roi_heads import CascadeROIHeads
from torch import Tensor
from torchvision.ops import roi_align

from d2tiny.export.graph import (
    Detections,
    DetectorGraph,
    clipped,
    finite_and_nonempty,
    gathered,
    topk_padded,
)
from d2tiny.export.nms import LOWEST, grouped_nms
from d2tiny.modeling.priors import grid_from_generator

__all__ = ["TwoStageGraph"]


class TwoStageGraph(DetectorGraph):
    """Backbone, RPN, and one or several box heads."""

    def forward(self, images: Tensor, size: Tensor) -> Detections:
        """Detect, see :class:`DetectorGraph`."""
        features = self.model.backbone(images)
        boxes, valid = self._proposals(features, size)
        heads = self.model.roi_heads
        maps = [features[name].float() for name in heads.box_in_features]
        cascade = isinstance(heads, CascadeROIHeads)
        stages = list(zip(heads.box_head, heads.box_predictor, strict=True)) if cascade else []
        probabilities = []
        for stage, (head, predictor) in enumerate(stages or [(heads.box_head, heads.box_predictor)]):
            boxes = clipped(boxes, size) if stage else boxes
            logits, deltas = self._of_boxes(maps, boxes, valid, head, predictor)
            probabilities.append(_probabilities(predictor, logits))
            boxes = _decoded(predictor, deltas, boxes)
        last = heads.box_predictor[-1] if cascade else heads.box_predictor
        scores = torch.stack(probabilities).mean(dim=0)
        per_class = boxes.unflatten(2, (-1, 4)) if boxes.shape[2] > 4 else boxes[:, :, None]
        finite = (boxes.abs() < -LOWEST).all(dim=2) & (scores.abs() < -LOWEST).all(dim=2) & valid
        scores = scores[..., :-1]
        scores = torch.where((scores > last.test_score_thresh) & finite[..., None], scores, -torch.inf)
        most = last.test_topk_per_image if last.test_topk_per_image >= 0 else scores.shape[1] * scores.shape[2]
        return self._select(per_class, scores, size, last.test_nms_thresh, most)

    def _proposals(self, features: dict[str, Tensor], size: Tensor) -> tuple[Tensor, Tensor]:
        """Return proposals (B, P, 4) by falling objectness, and (B, P) which of them are any."""
        rpn = self.model.proposal_generator
        maps = [features[name] for name in rpn.in_features]
        anchors = grid_from_generator(rpn.anchor_generator, maps)
        all_logits, all_deltas = rpn.rpn_head(maps)
        count, boxes, scores = rpn.pre_nms_topk[False], [], []
        for priors, logits, deltas in zip(anchors.level_boxes, all_logits, all_deltas, strict=True):
            batch = logits.shape[0]
            flat = logits.permute(0, 2, 3, 1).reshape(batch, -1).float()
            best, index = topk_padded(flat, count)
            rows, columns = deltas.shape[2:]
            deltas = deltas.view(batch, -1, 4, rows, columns).permute(0, 3, 4, 1, 2).reshape(batch, -1, 4)
            chosen, own = gathered(deltas, index).float().reshape(-1, 4), priors[index.reshape(-1)]
            decoded = clipped(rpn.box2box_transform.apply_deltas(chosen, own).view(batch, count, 4), size)
            sides = decoded[..., 2:] - decoded[..., :2]
            usable = finite_and_nonempty(decoded) & (sides > rpn.min_box_size).all(dim=-1)
            boxes.append(decoded)
            scores.append(torch.where(usable & (best.abs() < -LOWEST), best, -torch.inf))
        boxes_of_level, scores_of_level = torch.stack(boxes, dim=1), torch.stack(scores, dim=1)  # (B, L, count, …)
        keep = grouped_nms(boxes_of_level.flatten(0, 1), scores_of_level.flatten(0, 1), rpn.nms_thresh)
        kept = torch.where(keep.view(scores_of_level.shape), scores_of_level, -torch.inf).flatten(1)
        best, index = kept.topk(min(rpn.post_nms_topk[False], kept.shape[1]), dim=1)
        return gathered(boxes_of_level.flatten(1, 2), index), best > LOWEST

    def _of_boxes(
        self, maps: list[Tensor], boxes: Tensor, valid: Tensor, head: Any, predictor: Any
    ) -> tuple[Tensor, Tensor]:
        """Return class logits (B, P, K + 1) and deltas (B, P, ·) of a head; those of places without a box are 0.

        Boxes are pooled level by level; the head sees them in that order, and only those that are any.
        """
        batch, count = valid.shape
        image = torch.arange(batch, device=boxes.device)[:, None].expand(batch, count).reshape(-1)
        rois = torch.cat((image[:, None].to(boxes.dtype), boxes.reshape(-1, 4)), dim=1)
        levels = torch.where(valid.reshape(-1), self._levels(rois[:, 1:]), -1)
        settings = self._pooler()
        order, pooled = [], []
        for number, (level, pooler) in enumerate(zip(maps, settings.level_poolers, strict=True)):
            # A box that is always there: some runtimes do not pool an empty list.
            index = torch.cat((torch.zeros_like(image[:1]), (levels == number).nonzero()[:, 0]))
            order.append(index[1:])
            own = rois[index]
            args = (settings.output_size, pooler.spatial_scale, pooler.sampling_ratio, pooler.aligned)
            pooled.append(roi_align(level, own, *args)[1:])
        places = torch.cat(order)
        outputs = predictor(head(torch.cat(pooled)))
        return tuple(_placed(out.float(), places, batch, count) for out in outputs)  # type: ignore[return-value]

    def _pooler(self) -> Any:
        """Return Detectron2's pooler, which ours contains."""
        pooler = self.model.roi_heads.box_pooler
        return getattr(pooler, "pooler", pooler)

    def _levels(self, boxes: Tensor) -> Tensor:
        """Return the index of the level of each box (N, 4), as Detectron2's ``assign_boxes_to_levels``."""
        pooler = self._pooler()
        area = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
        level = torch.floor(pooler.canonical_level + torch.log2(area.sqrt() / pooler.canonical_box_size + 1e-8))
        level = level.clamp(min=pooler.min_level, max=pooler.max_level)
        return level.to(torch.int64) - pooler.min_level


def _placed(values: Tensor, places: Tensor, batch: int, count: int) -> Tensor:
    """Return (B, P, C) with the rows of ``values`` (n, C) at ``places`` (n,) of all B·P; others are 0."""
    empty = values.new_zeros((batch * count, values.shape[1]))
    return empty.index_put((places,), values).view(batch, count, values.shape[1])


def _probabilities(predictor: Any, logits: Tensor) -> Tensor:
    return logits.sigmoid() if getattr(predictor, "use_sigmoid_ce", False) else logits.softmax(dim=-1)


def _decoded(predictor: Any, deltas: Tensor, boxes: Tensor) -> Tensor:
    """Return (B, P, 4) or (B, P, K·4) boxes."""
    flat = predictor.box2box_transform.apply_deltas(deltas.flatten(0, 1), boxes.flatten(0, 1))
    return flat.view(*deltas.shape)
