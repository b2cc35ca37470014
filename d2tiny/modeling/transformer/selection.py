"""Mixed query selection of DINO (section 3.4 of the paper): tokens with the best class scores become queries."""

from __future__ import annotations

import logging
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from d2tiny.modeling.contracts import QueryPredictions
from d2tiny.modeling.transformer.box_deltas import apply_deltas, check_delta_unit
from d2tiny.modeling.transformer.decoder import box_head, class_head
from d2tiny.modeling.transformer.tokens import Tokens
from d2tiny.utils.precision import without_autocast
from d2tiny.utils.tracing import is_traced

__all__ = ["InitialQueries", "Proposals", "QuerySelection", "SelectedTokens", "best_places"]

logger = logging.getLogger(__name__)
_MARGIN = 0.01  # DINO excludes proposals with a coordinate below this share of the image, or above 1 − this
_PADDING_BOX = (0.5, 0.5, 0.01, 0.01)  # reference box of padding queries


@dataclass(frozen=True)
class Proposals:
    """The encoder's proposals, one for each token.

    Attributes:
        features: (B, S, C) projected output of the encoder.
        pred_logits: (B, S, K) class logits; −∞ for excluded tokens.
        boxes: (B, S, 4) initial boxes cx, cy, w, h in shares of the image, to be refined by the box head.
        valid_mask: (B, S) boolean, False for excluded tokens: padding, and boxes at the border with DINO's ``base_wh``.
    """

    features: Tensor
    pred_logits: Tensor
    boxes: Tensor
    valid_mask: Tensor


@dataclass(frozen=True)
class SelectedTokens:
    """Tokens from which the queries of a batch start; Q is the largest number of queries of an image.

    Attributes:
        token_idx: (B, Q) int64, arbitrary for padding queries.
        padding_mask: (B, Q) boolean, True for padding queries.
        is_peak: (B, Q) boolean, True for queries at a peak of a predicted density; None without a density.
    """

    token_idx: Tensor
    padding_mask: Tensor
    is_peak: Tensor | None = None


@dataclass(frozen=True)
class InitialQueries:
    """Matching queries of a batch, as they enter the decoder.

    Attributes:
        content: (B, Q, C) content queries.
        reference_boxes: (B, Q, 4) cx, cy, w, h in shares of the image, float32, without gradient.
        padding_mask: (B, Q) boolean, True for padding queries; None if all images have Q queries.
        predictions: the encoder's predictions for the tokens from which the queries start.
        is_peak: (B, Q) boolean, True for queries at a peak of a predicted density; None without a density.
    """

    content: Tensor
    reference_boxes: Tensor
    padding_mask: Tensor | None
    predictions: QueryPredictions
    is_peak: Tensor | None = None

    @property
    def valid_mask(self) -> Tensor | None:
        """(B, Q) boolean, False for padding queries; None without padding."""
        return None if self.padding_mask is None else ~self.padding_mask


class QuerySelection(nn.Module):
    """Predicts class and box for every token and selects those with the best class score as queries.

    The initial box of a token is centred on its cell. Its sides are ``base_cells`` cells of its level: as many px in a
    training crop as in a whole scene, so that what is learned on one holds for the other; cells at the border of the
    image are valid. With ``base_cells=None`` they are DINO's ``base_wh · 2^level``, shares of the image. The predicted
    boxes become the queries' reference boxes, without gradient; the content queries are learned embeddings, the same
    for all images ("mixed" selection).
    """

    def __init__(
        self,
        *,
        num_classes: int,
        embed_dim: int = 256,
        num_queries: int = 900,
        num_contents: int | None = None,
        base_cells: float | None = None,
        base_wh: float = 0.05,
        delta_unit: str | None = None,
    ) -> None:
        """Build heads and content queries.

        Args:
            num_classes: K of the encoder's own class head.
            embed_dim: C, channels of the encoder's output.
            num_queries: Q, largest number of queries that is ever selected.
            num_contents: learned content queries, which the queries take in turn; None for one for each query. As many
                as every training image selects are all learned, even where a scene selects more.
            base_cells: sides of the initial boxes in cells of their level; None for ``base_wh``.
            base_wh: without ``base_cells``, sides of the initial boxes on the finest level in shares of the image.
            delta_unit: ``box`` to refine the initial boxes in units of their sides; None for DINO's logits of shares of
                the image (:func:`~d2tiny.modeling.transformer.box_deltas.apply_deltas`).

        Raises:
            ValueError: a setting outside its range.
        """
        super().__init__()
        if num_queries < 1 or not 0 < base_wh < 1:
            raise ValueError(
                f"QuerySelection: need num_queries >= 1 and base_wh in (0, 1), got {num_queries}, {base_wh}."
            )
        if num_contents is not None and num_contents < 1:
            raise ValueError(f"QuerySelection: num_contents={num_contents} must be at least 1, or None.")
        if base_cells is not None and base_cells <= 0:
            raise ValueError(
                f"QuerySelection: base_cells={base_cells} must be over 0, or None for shares of the image."
            )
        check_delta_unit("QuerySelection", delta_unit)
        self.num_classes, self.delta_unit = num_classes, delta_unit
        self.num_queries, self.base_cells, self.base_wh = num_queries, base_cells, base_wh
        project = nn.Linear(embed_dim, embed_dim)
        self.enc_output = nn.Sequential(project, nn.LayerNorm(embed_dim))
        self.class_head, self.box_head = class_head(embed_dim, num_classes), box_head(embed_dim)
        self.content = nn.Embedding(num_queries if num_contents is None else num_contents, embed_dim)
        # as in the released DINO, whose transformer initialises all its matrices so
        for weight in (project.weight, self.content.weight):
            nn.init.xavier_uniform_(weight)

    def adapt_state(self, state: dict[str, Tensor], prefix: str) -> None:
        """Fit a checkpoint with another number of content queries: the first ones are taken over, in turn if too few.

        Args:
            state: the checkpoint's parameters by name; modified.
            prefix: of this module's names in ``state``.
        """
        key = f"{prefix}content.weight"
        given, own = state.get(key), self.content.weight.detach()
        if given is None or given.shape[1:] != own.shape[1:] or len(given) == len(own):
            return
        how = "take them in turn" if len(given) < len(own) else "are the first of them"
        logger.warning("The weights have %d content queries; the model's %d %s.", len(given), len(own), how)
        state[key] = torch.as_tensor(given).to(own)[torch.arange(len(own), device=own.device) % len(given)]

    def initial_boxes(self, tokens: Tokens) -> tuple[Tensor, Tensor]:
        """Return the initial boxes (B, S, 4), cx, cy, w, h in shares of the image, and (B, S) which are valid."""
        centres = tokens.reference_points
        if self.base_cells is not None:
            # a box may not be larger than the image
            sides = (self.base_cells * tokens.cell_sizes).clamp(max=1 - _MARGIN)
            # the centre of a cell in which the image ends may lie outside
            boxes = torch.cat((centres.clamp(max=1), sides), dim=-1)
            return boxes, ~tokens.key_padding_mask
        side = (self.base_wh * 2.0**tokens.level_index).to(centres)
        sides = side[None, :, None].expand(len(tokens.features), -1, 2)
        boxes = torch.cat((centres, sides), dim=-1)
        inside = ((boxes > _MARGIN) & (boxes < 1 - _MARGIN)).all(dim=-1)
        return boxes, inside & ~tokens.key_padding_mask

    def propose(self, memory: Tensor, tokens: Tokens, updated: Tensor | None = None) -> Proposals:
        """Predict the classes of all tokens.

        Args:
            memory: (B, S, C), output of the encoder.
            tokens: the encoder's tokens.
            updated: (B, S) boolean, tokens that the encoder has updated: others are excluded; None for all.
        """
        boxes, valid_mask = self.initial_boxes(tokens)
        valid_mask = valid_mask if updated is None else valid_mask & updated
        features = self.enc_output(memory.masked_fill(~valid_mask[..., None], 0.0))
        with without_autocast(features.device):  # bfloat16 has few values, and of equal scores the finest level wins
            logits = self.class_head(features.float()).masked_fill(~valid_mask[..., None], -torch.inf)
        return Proposals(features, logits, boxes, valid_mask)

    def predict_boxes(self, features: Tensor, boxes: Tensor) -> Tensor:
        """Refine the initial boxes of selected tokens; for all tokens the head would keep too much for the gradient.

        Args:
            features: (B, Q, C) of the proposals.
            boxes: (B, Q, 4) their initial boxes.

        Returns:
            (B, Q, 4) the refined boxes, cx, cy, w, h in shares of the image, float32.
        """
        with without_autocast(features.device):
            return apply_deltas(boxes.float(), self.box_head(features.float()), self.delta_unit)

    def topk_proposals(self, proposals: Proposals, topk: int) -> Tensor:
        """Return the tokens with the best class scores, (B, Q) int64, best first; among equal ones the first token.

        Q is ``topk``, or the number of tokens if that is smaller.
        """
        score = proposals.pred_logits.detach().amax(dim=-1)
        return score.argsort(dim=1, descending=True, stable=True)[:, : min(topk, score.shape[1])]

    def select(self, proposals: Proposals) -> SelectedTokens:
        """Select the ``num_queries`` tokens of each image with the best class scores."""
        if is_traced():
            token_idx = best_places(proposals.pred_logits.amax(dim=-1), self.num_queries)
            slots = torch.arange(self.num_queries, device=token_idx.device)
            return SelectedTokens(token_idx, slots >= proposals.valid_mask.sum(dim=1, keepdim=True))
        token_idx = self.topk_proposals(proposals, self.num_queries)
        # an image that is smaller than others of its batch may have fewer valid tokens than there are queries
        return SelectedTokens(token_idx, ~proposals.valid_mask.gather(1, token_idx))

    def initial_queries(
        self, proposals: Proposals, selected: SelectedTokens, *, plain_peaks: bool = False
    ) -> InitialQueries:
        """Initialise a query from each selected token.

        Args:
            proposals: of all tokens.
            selected: the tokens.
            plain_peaks: queries at density peaks start from the initial box of their token, with its features as
                content query, instead of the predicted box and a learned content query.
        """
        token_idx, padding_mask = selected.token_idx, selected.padding_mask
        features, initial_boxes, logits = (
            x.gather(1, token_idx[..., None].expand(-1, -1, x.shape[2]))
            for x in (proposals.features, proposals.boxes, proposals.pred_logits)
        )
        boxes = self.predict_boxes(features, initial_boxes)
        content = self.content.weight[_content_slots(selected, plain_peaks) % self.content.num_embeddings]
        reference_boxes = boxes.detach()
        if plain_peaks and selected.is_peak is not None:
            is_peak = selected.is_peak[..., None]
            content = torch.where(is_peak, features.detach().to(content.dtype), content)
            reference_boxes = torch.where(is_peak, initial_boxes.float(), reference_boxes)
        predictions = QueryPredictions(logits, boxes)
        if not is_traced() and not bool(padding_mask.any()):
            return InitialQueries(content, reference_boxes, None, predictions, selected.is_peak)
        content = content.masked_fill(padding_mask[..., None], 0.0)
        padding_box = reference_boxes.new_tensor(_PADDING_BOX)
        reference_boxes = torch.where(padding_mask[..., None], padding_box, reference_boxes)
        return InitialQueries(content, reference_boxes, padding_mask, predictions, selected.is_peak)


def best_places(values: Tensor, count: int) -> Tensor:
    """Return the places of the largest values of (B, N), (B, count) int64, in graphs that are recorded.

    Where N is smaller than ``count``, which such a graph cannot know, the last place fills what is left.
    """
    padded = torch.cat((values, values.new_full((values.shape[0], count), -torch.inf)), dim=1)
    return padded.topk(count, dim=1).indices.clamp(max=values.shape[1] - 1)


def _content_slots(selected: SelectedTokens, plain_peaks: bool) -> Tensor:
    """Return the place of each query among those with a learned content query, (B, Q).

    With ``plain_peaks``, queries at peaks have none; the others count from the first, so that all are learned however
    many peaks precede them. Padding does not count: in graphs that are recorded it stands between queries.
    """
    others = ~selected.padding_mask
    if plain_peaks and selected.is_peak is not None:
        others = ~selected.is_peak
    return (others.cumsum(dim=1) - 1).clamp(min=0)
