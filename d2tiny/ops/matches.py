"""Candidate pairs of a ground truth and a prior with their scores, as label assignment searches for them."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["Matches", "keep_topk", "max_score_per_gt", "rank_by_score"]


@dataclass(frozen=True)
class Matches:
    """Pairs of a ground truth and a prior: ``gt`` and ``prior`` int64 (P,), ``score`` float64 (P,)."""

    gt: Tensor
    prior: Tensor
    score: Tensor

    @staticmethod
    def cat(parts: list[Matches], device: torch.device) -> Matches:
        """Concatenate several sets of pairs; an empty list gives an empty set on ``device``."""
        if not parts:
            empty = torch.zeros(0, dtype=torch.int64, device=device)
            return Matches(empty, empty, empty.double())
        return Matches(
            torch.cat([p.gt for p in parts]),
            torch.cat([p.prior for p in parts]),
            torch.cat([p.score for p in parts]),
        )

    def keep(self, mask: Tensor) -> Matches:
        """Return the pairs selected by a (P,) bool mask."""
        return Matches(self.gt[mask], self.prior[mask], self.score[mask])


def max_score_per_gt(pairs: Matches, num_gts: int) -> Tensor:
    """Return the (G,) highest score of each ground truth; -inf for one without a pair."""
    top = torch.full((num_gts,), -torch.inf, dtype=torch.float64, device=pairs.score.device)
    return top.scatter_reduce_(0, pairs.gt, pairs.score, "amax")


def rank_by_score(matches: Matches) -> tuple[Matches, Tensor]:
    """Sort pairs by ground truth, then by descending score, then by prior index.

    Returns:
        The sorted pairs, and the (P,) rank of each pair among those of its ground truth, from 0.
    """
    order = matches.prior.argsort(stable=True)
    order = order[matches.score[order].argsort(descending=True, stable=True)]
    order = order[matches.gt[order].argsort(stable=True)]
    gt = matches.gt[order]
    first = torch.searchsorted(gt, gt)  # index of the first pair of the same ground truth
    return Matches(gt, matches.prior[order], matches.score[order]), torch.arange(len(gt), device=gt.device) - first


def keep_topk(matches: Matches, k: int | Tensor) -> Matches:
    """Keep the k best pairs of each ground truth, at equal scores the lowest prior index; k is a number or (G,)."""
    pairs, rank = rank_by_score(matches)
    return pairs.keep(rank < (k[pairs.gt] if isinstance(k, Tensor) else k))
