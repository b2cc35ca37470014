"""The queries that enter the decoder: selected by class score, or by class score and density."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from d2tiny.layers.position import inverse_sigmoid
from d2tiny.modeling.contracts import QueryPredictions
from d2tiny.modeling.transformer.density_queries import DensityQueries
from d2tiny.modeling.transformer.selection import Proposals, QuerySelection
from d2tiny.modeling.transformer.tokens import Tokens

__all__ = ["InitialQueries", "initial_queries"]

_PADDING_BOX = (0.5, 0.5, 0.01, 0.01)


@dataclass(frozen=True)
class InitialQueries:
    """Matching queries of a batch.

    Attributes:
        content: (B, Q, C) content queries.
        reference_logits: (B, Q, 4) inverse sigmoid of the reference boxes, without gradient.
        padding_mask: (B, Q) boolean, True for padding queries; None if all images have Q queries.
        predictions: the encoder's predictions for the tokens from which the queries come.
    """

    content: Tensor
    reference_logits: Tensor
    padding_mask: Tensor | None
    predictions: QueryPredictions

    @property
    def valid_mask(self) -> Tensor | None:
        """(B, Q) boolean, False for padding queries; None without padding."""
        return None if self.padding_mask is None else ~self.padding_mask


def initial_queries(
    selection: QuerySelection,
    proposals: Proposals,
    dgq: DensityQueries | None,
    density: Tensor | None,
    tokens: Tokens,
    gt_counts: Sequence[int] | None,
) -> InitialQueries:
    """Select tokens, and initialise a query from each.

    Args:
        selection: heads and content queries.
        proposals: of all tokens.
        dgq: density-guided selection; None for the best class scores.
        density: (B, H, W) map of ``dgq``.
        tokens: of the encoder.
        gt_counts: in training, the number of objects of each image.
    """
    peaks = None
    if dgq is None:
        token_idx = selection.topk_proposals(proposals, selection.num_queries)
        # an image that is smaller than others of its batch may have fewer valid tokens than there are queries
        padding_mask = ~proposals.valid_mask.gather(1, token_idx)
    else:
        assert density is not None
        selected = dgq.select(proposals, density.detach(), tokens, gt_counts)
        token_idx, padding_mask = selected.token_idx, selected.padding_mask
        peaks = selected.is_peak if dgq.plain_peaks else None
    features, initial_boxes, logits = (
        x.gather(1, token_idx[..., None].expand(-1, -1, x.shape[2]))
        for x in (proposals.features, proposals.boxes, proposals.pred_logits)
    )
    box_logits = selection.predict_boxes(features, initial_boxes)
    content = selection.content.weight[: token_idx.shape[1]].expand(len(token_idx), -1, -1)
    reference_logits = box_logits.detach()
    if peaks is not None:
        content = torch.where(peaks[..., None], features.detach().to(content.dtype), content)
        reference_logits = torch.where(peaks[..., None], inverse_sigmoid(initial_boxes.float()), reference_logits)
    predictions = QueryPredictions(logits, box_logits.sigmoid())
    if not bool(padding_mask.any()):
        return InitialQueries(content, reference_logits, None, predictions)
    content = content.masked_fill(padding_mask[..., None], 0.0)
    padding_logits = inverse_sigmoid(reference_logits.new_tensor(_PADDING_BOX))
    reference_logits = torch.where(padding_mask[..., None], padding_logits, reference_logits)
    return InitialQueries(content, reference_logits, padding_mask, predictions)
