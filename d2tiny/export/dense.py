"""Graphs of one-stage detectors: FCOS, RetinaNet, YOLOX, YOLOv5, YOLO11, RS-TinyNet."""

from __future__ import annotations

import torch
from torch import Tensor

from d2tiny.export.graph import Detections, DetectorGraph, gathered, topk_padded
from d2tiny.export.nms import LOWEST

__all__ = ["DenseGraph"]


class DenseGraph(DetectorGraph):
    """Backbone, dense head, and the selection of detections level by level."""

    def forward(self, images: Tensor, size: Tensor) -> Detections:
        """Detect, see :class:`DetectorGraph`."""
        model, head = self.model, self.model.head
        features = model.backbone(images)
        maps = [features[name] for name in model.head_in_features]
        outputs, priors = head(maps), head.priors(maps)
        boxes, scores = [], []
        for level in range(len(maps)):
            quality = None if outputs.pred_quality is None else outputs.pred_quality[level].float()
            score, above = head.level_scores(outputs.pred_logits[level].float(), quality)
            best, index = topk_padded(score.amax(dim=2), head.pre_nms_topk)
            chosen = gathered(score, index)
            usable = (gathered(above, index) > head.score_thresh) & (best > LOWEST)[..., None]
            scores.append(torch.where(usable & (chosen.abs() < -LOWEST), chosen, -torch.inf))
            deltas, anchors = gathered(outputs.pred_deltas[level].float(), index), priors.level_boxes[level]
            stride = priors.levels[level].stride
            decoded = head.decode_boxes(deltas.flatten(0, 1), anchors[index.reshape(-1)], stride)
            boxes.append(decoded.view(*index.shape, 4))
        found = (torch.cat(boxes, dim=1)[:, :, None], torch.cat(scores, dim=1))
        return self._select(*found, size, head.nms_thresh, head.max_detections)
