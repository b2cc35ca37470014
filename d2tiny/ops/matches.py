"""Pairs of a ground truth and a prior, as label assignment finds them."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["Matches", "best_scores", "first_k", "ranked"]


@dataclass(frozen=True)
class Matches:
    """Pairs of a ground truth and a prior: ``gt`` and ``prior`` int64 (P,), ``score`` float64 (P,)."""

    gt: Tensor
    prior: Tensor
    score: Tensor

    @staticmethod
    def cat(parts: list[Matches], device: torch.device) -> Matches:
        """Join several lists of pairs; an empty list gives no pairs."""
        if not parts:
            none = torch.zeros(0, dtype=torch.int64, device=device)
            return Matches(none, none, none.double())
        return Matches(
            torch.cat([p.gt for p in parts]),
            torch.cat([p.prior for p in parts]),
            torch.cat([p.score for p in parts]),
        )

    def keep(self, mask: Tensor) -> Matches:
        """Return the pairs where ``mask`` (P,) holds."""
        return Matches(self.gt[mask], self.prior[mask], self.score[mask])


def best_scores(pairs: Matches, groups: int) -> Tensor:
    """(G,) highest score of each ground truth; -inf where it has no pair."""
    top = torch.full((groups,), -torch.inf, dtype=torch.float64, device=pairs.score.device)
    return top.scatter_reduce_(0, pairs.gt, pairs.score, "amax")


def ranked(matches: Matches) -> tuple[Matches, Tensor]:
    """Sort by ground truth and falling score, equal scores by prior index.

    Returns:
        The sorted pairs, and the (P,) position of each among those of its ground truth, from 0.
    """
    order = matches.prior.argsort(stable=True)
    order = order[matches.score[order].argsort(descending=True, stable=True)]
    order = order[matches.gt[order].argsort(stable=True)]
    gt = matches.gt[order]
    first = torch.searchsorted(gt, gt)  # position of the first pair of the same ground truth
    return Matches(gt, matches.prior[order], matches.score[order]), torch.arange(len(gt), device=gt.device) - first


def first_k(matches: Matches, k: int | Tensor) -> Matches:
    """Keep for each ground truth its k best pairs, equal scores by lowest prior index; k may be (G,)."""
    pairs, place = ranked(matches)
    return pairs.keep(place < (k[pairs.gt] if isinstance(k, Tensor) else k))
