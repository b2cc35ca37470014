"""Which tokens an encoder updates: those of coarse levels, and those of fine levels where objects may be."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from d2tiny.modeling.transformer.density_map import pool_density
from d2tiny.modeling.transformer.tokens import Tokens

__all__ = ["TokenSparsity", "token_index"]


def token_index(mask: Tensor) -> Tensor:
    """Return the places of a mask's (B, S) tokens, (B, most of an image) int64; S in unused entries."""
    counts = mask.sum(dim=1)
    most = int(counts.max())
    index = torch.full((len(mask), most), mask.shape[1], dtype=torch.int64, device=mask.device)
    used = torch.arange(most, device=mask.device) < counts[:, None]
    index[used] = mask.nonzero()[:, 1]
    return index


class TokenSparsity:
    """Chooses tokens by the density of objects, as Sparse DETR (Roh et al., 2022) and Focus-DETR do by a score.

    All tokens of the levels from ``dense_from`` on are chosen, and of finer levels those within ``dilation`` cells of a
    cell whose largest density reaches ``threshold``. Their number follows what the image holds. Tokens that are not
    chosen stay as the neck made them; all attend to them.

    In training the tokens at objects are chosen, too, so that the encoder learns of them before the density does; and
    as many at each of ``decoys`` copies of the objects' density at random places. Otherwise being updated would say
    that an object is there, and in tests the false alarms of the density would look like objects.

    The finest level is updated only in the last of each ``finest_every`` layers, as in Lite DETR (Li et al., 2023).
    """

    def __init__(
        self,
        *,
        threshold: float = 3e-4,
        dilation: int = 1,
        dense_from: int = 2,
        finest_every: int = 1,
        decoys: int = 4,
    ) -> None:
        """Set the rule.

        Args:
            threshold: objects per cell of the finest level; 0 chooses all tokens. Far below the peak of an object that
                the density is sure of: no query starts from a token that is not chosen, and coarse ones are few.
            dilation: cells of the token's level.
            dense_from: first level of which all tokens are chosen, 0 for the finest.
            finest_every: layers in a block; the finest level is updated in the last one.
            decoys: copies of the objects' density in training.

        Raises:
            ValueError: a setting outside its range.
        """
        if threshold < 0 or dilation < 0 or dense_from < 0 or finest_every < 1 or decoys < 0:
            raise ValueError(
                "TokenSparsity: need threshold, dilation, dense_from and decoys >= 0 and finest_every >= 1, got "
                f"{threshold}, {dilation}, {dense_from}, {decoys}, {finest_every}."
            )
        self.threshold, self.dilation = threshold, dilation
        self.dense_from, self.finest_every, self.decoys = dense_from, finest_every, decoys

    def choose(self, density: Tensor, tokens: Tokens, true_density: Sequence[Tensor] | None = None) -> Tensor:
        """Choose the tokens of a batch.

        Args:
            density: (B, H, W) predicted objects per cell of the finest level.
            tokens: the tokens.
            true_density: in training, the true one of each image (h, w): tokens at objects are chosen also where the
                prediction does not yet see them.

        Returns:
            (B, S) boolean, True for tokens that are updated.
        """
        if true_density is not None:
            density = density.clone()
            for image, truth in zip(density, true_density, strict=True):
                part = image[: truth.shape[0], : truth.shape[1]]
                part.copy_(part.maximum(self._with_decoys(truth)))
        masks = []
        for values in pool_density(density, tokens.spatial_shapes[: self.dense_from]):
            if self.dilation:
                values = F.max_pool2d(values[:, None], 2 * self.dilation + 1, stride=1, padding=self.dilation)[:, 0]
            masks.append((values >= self.threshold).flatten(1))
        coarse = sum(height * width for height, width in tokens.spatial_shapes[self.dense_from :])
        masks.append(density.new_ones(density.shape[0], coarse, dtype=torch.bool))
        mask = torch.cat(masks, dim=1)
        return mask if tokens.padding is None else mask & ~tokens.padding

    def _with_decoys(self, truth: Tensor) -> Tensor:
        """Return a density (h, w) with copies of itself, moved around at random."""
        result, (height, width) = truth, truth.shape
        for _ in range(self.decoys):
            shift = (int(torch.randint(height, ())), int(torch.randint(width, ())))
            result = result.maximum(truth.roll(shift, (0, 1)))
        return result

    def updates_finest(self, layer: int) -> bool:
        """Return whether a layer of the encoder, 0 for the first, updates the finest level."""
        return (layer + 1) % self.finest_every == 0
