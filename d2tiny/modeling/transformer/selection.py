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

_EDGE = 0.01  # of the image: DINO's proposals nearer to its border, smaller, or larger than 1 − this, are none


@dataclass(frozen=True)
class Proposals:
    """What the encoder says.

    Attributes:
        features: (B, S, C) of the tokens.
        logits: (B, S, classes); −inf where a token is none of the image.
        starts: (B, S, 4) boxes cx, cy, w, h in shares of the image, of which the box head says how they move.
        usable: (B, S) boolean.
    """

    features: Tensor
    logits: Tensor
    starts: Tensor
    usable: Tensor


class QuerySelection(nn.Module):
    """A class and a box for every token; those with the best class become queries.

    Boxes start at the middle of the token's cell. Their sides are ``base_cells`` cells of its level: as many px in a
    crop as in a whole scene, so that what was learned on the one holds for the other, and cells at the border of the
    image count. With ``base_cells=None`` they are DINO's ``base_wh · 2^level`` of the image. Positions of the queries
    are the boxes, without gradient; contents are learned, the same for all images ("mixed").
    """

    def __init__(
        self,
        *,
        num_classes: int,
        channels: int = 256,
        queries: int = 900,
        base_cells: float | None = None,
        base_wh: float = 0.05,
    ) -> None:
        """Set the numbers.

        Args:
            num_classes: of the encoder's own class head.
            channels: C.
            queries: K, the most that are ever selected.
            base_cells: sides of the boxes in cells of their level.
            base_wh: without ``base_cells``, sides of the finest level's boxes as shares of the image.

        Raises:
            ValueError: a setting outside its range.
        """
        super().__init__()
        if queries < 1 or not 0 < base_wh < 1:
            raise ValueError(f"QuerySelection: need queries >= 1 and base_wh in (0, 1), got {queries}, {base_wh}.")
        if base_cells is not None and base_cells <= 0:
            raise ValueError(
                f"QuerySelection: base_cells={base_cells} must be over 0, or None for shares of the image."
            )
        self.num_classes = num_classes
        self.queries, self.base_cells, self.base_wh = queries, base_cells, base_wh
        self.enter = nn.Sequential(nn.Linear(channels, channels), nn.LayerNorm(channels))
        self.class_head, self.box_head = class_head(channels, num_classes), box_head(channels)
        self.content = nn.Embedding(queries, channels)
        nn.init.normal_(self.content.weight)

    def adapt_state(self, state: dict[str, Tensor], prefix: str) -> None:
        """Let a model with another number of queries start from trained contents: of those that both have."""
        key = f"{prefix}content.weight"
        given, own = state.get(key), self.content.weight.detach()
        if given is None or given.shape[1:] != own.shape[1:] or len(given) == len(own):
            return
        given, count = torch.as_tensor(given), min(len(given), len(own))
        state[key] = torch.cat((given[:count].to(own), own[count:]))

    def starts(self, tokens: Tokens) -> tuple[Tensor, Tensor]:
        """(B, S, 4) boxes of the tokens, cx, cy, w, h in shares of the image, and (B, S) which are usable."""
        if self.base_cells is not None:
            # a cell as wide as the image starts from the image
            side = (self.base_cells * tokens.cell).clamp(max=1 - _EDGE)
            boxes = torch.cat((tokens.centres, side), dim=-1)
            return boxes, (tokens.centres < 1).all(dim=-1) & ~tokens.padding
        side = (self.base_wh * 2.0**tokens.level).to(tokens.centres)
        side = side[None, :, None].expand(len(tokens.features), -1, 2)
        boxes = torch.cat((tokens.centres, side), dim=-1)
        inside = ((boxes > _EDGE) & (boxes < 1 - _EDGE)).all(dim=-1)
        return boxes, inside & ~tokens.padding

    def propose(self, memory: Tensor, tokens: Tokens) -> Proposals:
        """Classes of all tokens."""
        boxes, usable = self.starts(tokens)
        features = self.enter(memory.masked_fill(~usable[..., None], 0.0))
        logits = self.class_head(features).float().masked_fill(~usable[..., None], -torch.inf)
        return Proposals(features, logits, boxes, usable)

    def boxes(self, features: Tensor, starts: Tensor) -> Tensor:
        """(B, K, 4) logits of boxes, of the selected tokens only: the head keeps much memory for the gradient.

        Args:
            features: (B, K, C) of the proposals.
            starts: (B, K, 4) likewise.
        """
        with without_autocast(features.device):
            moved: Tensor = self.box_head(features.float()) + inverse_sigmoid(starts.float())
        return moved

    def select(self, proposals: Proposals, count: int) -> Tensor:
        """(B, K) the tokens with the best class, of equal ones the first; K is at most the number of tokens."""
        score = proposals.logits.detach().amax(dim=-1)
        return score.argsort(dim=1, descending=True, stable=True)[:, : min(count, score.shape[1])]
