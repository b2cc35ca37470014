"""Graph of DINO and ScaleBridge-Det."""

from __future__ import annotations

import torch
from torch import Tensor

from d2tiny.export.graph import Detections, DetectorGraph, clipped, finished, finite_and_nonempty, gathered
from d2tiny.modeling.transformer.tokens import padding_masks
from d2tiny.ops.boxes import cxcywh_to_xyxy

__all__ = ["TransformerGraph"]


class TransformerGraph(DetectorGraph):
    """Backbone, encoder, selection of queries, decoder.

    Density-guided queries have slots for their largest number, of which those that an image does not need are masked;
    a sparse encoder computes all tokens and keeps those that are chosen. The detections are the same, the time is not.
    """

    def forward(self, images: Tensor, size: Tensor) -> Detections:
        """Detect, see :class:`DetectorGraph`."""
        model = self.model
        levels = model.levels(images)
        sizes = size[None].expand(images.shape[0], -1)
        masks = padding_masks(sizes, images.shape[-2:], levels, model.strides)
        tokens, routing = model.tokens_of_levels(images, levels, masks, sizes, has_padding=True)
        encoded = model.encode_tokens(tokens, routing)
        last = model.decode(encoded, None)[1].layers[-1]
        scores = last.pred_logits.sigmoid()
        padding = encoded.queries.padding_mask
        if padding is not None:
            scores = scores.masked_fill(padding[..., None], -torch.inf)
        return self._detections(scores, last.pred_boxes, size)

    def _detections(self, scores: Tensor, boxes: Tensor, size: Tensor) -> Detections:
        """Return the pairs of query and class with the best scores, without those whose box has no area."""
        model, classes = self.model, scores.shape[2]
        most = min(model.max_detections, scores.shape[1] * classes)
        best, index = scores.flatten(1).topk(most, dim=1)
        found = gathered(cxcywh_to_xyxy(boxes), index // classes)
        found = clipped(found * torch.stack((size[1], size[0], size[1], size[0])).to(found.dtype), size)
        usable = finite_and_nonempty(found) & (best > max(model.score_thresh, 0.0))
        # what is left out may stand between the others
        best, order = torch.where(usable, best, -torch.inf).topk(most, dim=1)
        return finished(gathered(found, order), best, (index % classes).gather(1, order))
