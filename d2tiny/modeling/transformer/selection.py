"""Where queries start: the tokens that look most like objects (DINO's mixed query selection)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from d2tiny.layers.position import inverse_sigmoid
from d2tiny.modeling.transformer.decoder import box_head, class_head
from d2tiny.modeling.transformer.tokens import Tokens
from d2tiny.utils.precision import without_autocast

__all__ = ["Proposals", "QuerySelection"]

_EDGE = 0.01  # proposals nearer to the image's border, or larger than 1 − this, are none


@dataclass(frozen=True)
class Proposals:
    """What the encoder says.

    Attributes:
        features: (B, S, C) of the tokens.
        logits: (B, S, classes); −inf where a token is none of the image.
        reference: (B, S, 4) logits of boxes.
        usable: (B, S) boolean.
    """

    features: Tensor
    logits: Tensor
    reference: Tensor
    usable: Tensor


class QuerySelection(nn.Module):
    """A class and a box for every token; those with the best class become queries.

    Boxes start at the middle of the token's cell with sides ``base_wh · 2^level`` of the image. Positions of the
    queries are the boxes, without gradient; contents are learned, the same for all images ("mixed").
    """

    def __init__(self, *, num_classes: int, channels: int = 256, queries: int = 900, base_wh: float = 0.05) -> None:
        """Set the numbers.

        Args:
            num_classes: of the encoder's own class head.
            channels: C.
            queries: K, the most that are ever selected.
            base_wh: sides of the finest level's boxes as shares of the image; 0.05 in DINO, less for tiny objects.

        Raises:
            ValueError: a setting outside its range.
        """
        super().__init__()
        if queries < 1 or not 0 < base_wh < 1:
            raise ValueError(f"QuerySelection: need queries >= 1 and base_wh in (0, 1), got {queries}, {base_wh}.")
        self.queries, self.base_wh = queries, base_wh
        self.enter = nn.Sequential(nn.Linear(channels, channels), nn.LayerNorm(channels))
        self.class_head, self.box_head = class_head(channels, num_classes), box_head(channels)
        self.content = nn.Embedding(queries, channels)
        nn.init.normal_(self.content.weight)

    def starts(self, tokens: Tokens) -> tuple[Tensor, Tensor]:
        """(B, S, 4) boxes of the tokens, cx, cy, w, h in shares of the image, and (B, S) which are usable."""
        side = (self.base_wh * 2.0**tokens.level).to(tokens.centres)
        side = side[None, :, None].expand(len(tokens.features), -1, 2)
        boxes = torch.cat((tokens.centres, side), dim=-1)
        inside = ((boxes > _EDGE) & (boxes < 1 - _EDGE)).all(dim=-1)
        return boxes, inside & ~tokens.padding

    def propose(self, memory: Tensor, tokens: Tokens) -> Proposals:
        """Classes and boxes of all tokens."""
        boxes, usable = self.starts(tokens)
        features = self.enter(memory.masked_fill(~usable[..., None], 0.0))
        logits = self.class_head(features).float().masked_fill(~usable[..., None], -torch.inf)
        with without_autocast(memory.device):
            reference = self.box_head(features.float()) + inverse_sigmoid(boxes.float())
        return Proposals(features, logits, reference, usable)

    def select(self, proposals: Proposals, count: int) -> Tensor:
        """(B, K) the tokens with the best class, of equal ones the first; K is at most the number of tokens."""
        score = proposals.logits.detach().amax(dim=-1)
        return score.argsort(dim=1, descending=True, stable=True)[:, : min(count, score.shape[1])]
