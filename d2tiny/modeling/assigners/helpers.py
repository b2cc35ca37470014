"""Building blocks for label assigners: a search index over priors, conflicts between objects, results.

Letters: N priors, G objects and P pairs of an object and a prior (:class:`~d2tiny.ops.matches.Matches`), of one image.
"""

from __future__ import annotations

import torch
from torch import Tensor

from d2tiny.modeling.assigners.base import Predictions, Priors
from d2tiny.modeling.contracts import AssignResult
from d2tiny.ops.block_topk import Blocks
from d2tiny.ops.boxes import xyxy_to_cxcywh
from d2tiny.ops.gaussian import Score, ScoreFn
from d2tiny.ops.grid_topk import PriorGrids
from d2tiny.ops.matches import Matches
from d2tiny.ops.prior_search import priors_above

__all__ = [
    "BestMatches",
    "bounded_by_largest_prior",
    "build_result",
    "check_tie_rule",
    "match_to_best",
    "match_to_last",
    "priors_reaching",
    "require_predictions",
    "resolve_conflicts",
    "spatial_index",
]


def spatial_index(priors: Priors) -> PriorGrids | Blocks:
    """Return the priors in the form that :mod:`d2tiny.ops.prior_search` searches.

    :class:`GridPriors` are searched by windows around each object, boxes by blocks of neighbours.
    """
    return Blocks.from_boxes(xyxy_to_cxcywh(priors.double())) if isinstance(priors, Tensor) else priors.prior_grids


def bounded_by_largest_prior(value: ScoreFn) -> Score:
    """Return a :class:`Score` for a function that never decreases when the prior grows.

    Among priors with sizes in a range, the largest then gives the upper bound that the search needs.
    """

    def upper_bound(
        dx: Tensor, dy: Tensor, w_min: Tensor, w_max: Tensor, h_min: Tensor, h_max: Tensor, *gt: Tensor
    ) -> Tensor:
        return value(dx, dy, w_max, h_max, *gt)

    return Score(value, upper_bound)


def match_to_last(matches: Matches, num_priors: int) -> tuple[Tensor, Tensor]:
    """Match each prior to the last ground truth that selected it, as released code does by overwriting.

    Args:
        matches: P selected pairs.
        num_priors: N.

    Returns:
        matched_idxs (N,) int64, -1 for priors that are not in any pair; quality (N,) float32, the score of the match.
    """
    matched_idxs = torch.full((num_priors,), -1, dtype=torch.int64, device=matches.gt.device)
    matched_idxs.scatter_reduce_(0, matches.prior, matches.gt, "amax")
    quality = torch.zeros(num_priors, dtype=torch.float32, device=matches.gt.device)
    is_match = matched_idxs[matches.prior] == matches.gt
    quality[matches.prior[is_match]] = matches.score[is_match].float()
    return matched_idxs, quality


class BestMatches:
    """The ground truth with the highest score for each prior, the first of equal ones, updated part by part.

    Attributes:
        score: (N,) float64, the highest score so far, -inf without a pair.
    """

    def __init__(self, num_priors: int, device: torch.device) -> None:
        self.score = torch.full((num_priors,), -torch.inf, dtype=torch.float64, device=device)
        self._gt = torch.full((num_priors,), torch.iinfo(torch.int64).max, device=device)

    def update(self, matches: Matches) -> None:
        """Take further pairs into account."""
        best = self.score.scatter_reduce(0, matches.prior, matches.score, "amax")
        self._gt = torch.where(best > self.score, torch.iinfo(torch.int64).max, self._gt)
        is_best = matches.score == best[matches.prior]
        self._gt.scatter_reduce_(0, matches.prior[is_best], matches.gt[is_best], "amin")
        self.score = best

    def matched_idxs(self) -> Tensor:
        """Return the best ground truth of each prior, (N,) int64, -1 without a pair."""
        return torch.where(torch.isfinite(self.score), self._gt, -1)


def match_to_best(matches: Matches, num_priors: int) -> tuple[Tensor, Tensor]:
    """Match each prior to the ground truth with the highest score, the first of equal ones.

    Args:
        matches: P pairs.
        num_priors: N.

    Returns:
        matched_idxs (N,) int64, -1 for priors that are not in any pair; score (N,) float64 of the match, -inf there.
    """
    best = BestMatches(num_priors, matches.gt.device)
    best.update(matches)
    return best.matched_idxs(), best.score


def resolve_conflicts(selected: Matches, candidates: BestMatches, num_priors: int) -> Tensor:
    """Match each prior to the ground truth that selected it, or to its best candidate where several selected it.

    As in released code, the best is taken among all candidates of the prior, so a ground truth can win that did not
    select it.

    Args:
        selected: P pairs.
        candidates: the best of a larger set of pairs.
        num_priors: N.

    Returns:
        matched_idxs (N,) int64, -1 for priors that nobody selected.
    """
    matched_idxs, _ = match_to_last(selected, num_priors)
    several = torch.bincount(selected.prior, minlength=num_priors) > 1
    return torch.where(several, candidates.matched_idxs(), matched_idxs)


def priors_reaching(
    index: PriorGrids | Blocks, gts: Tensor, score: ScoreFn, threshold: float, num_priors: int
) -> Tensor:
    """Return an (N,) mask of the priors that score at least ``threshold`` with some ground truth.

    Args:
        index: of :func:`spatial_index`.
        gts: (G, 4) cx, cy, w, h in px.
        score: of a pair.
        threshold: lowest score.
        num_priors: N.
    """
    mask = torch.zeros(num_priors, dtype=torch.bool, device=gts.device)
    for matches in priors_above(index, gts, score, threshold):
        mask[matches.prior] = True
    return mask


def build_result(matched_idxs: Tensor, quality: Tensor, ignored: Tensor | None = None) -> AssignResult:
    """Return the result of an image: matched priors are positive, ``ignored`` ones of the rest ignored.

    Args:
        matched_idxs: (N,) int64, -1 without a match.
        quality: (N,) float32.
        ignored: (N,) mask; None ignores nothing.
    """
    labels = torch.where(matched_idxs >= 0, 1, 0 if ignored is None else torch.where(ignored, -1, 0))
    return AssignResult(matched_idxs, labels.to(torch.int8), quality)


def require_predictions(owner: str, predictions: Predictions | None) -> Predictions:
    """Return the predictions as float32 without gradients.

    Args:
        owner: name of the assigner, for error messages.
        predictions: of the image.

    Raises:
        ValueError: there are none.
        FloatingPointError: NaN or infinity among them.
    """
    if predictions is None:
        raise ValueError(
            f"{owner} looks at the model's predictions: it needs a head that hands them on (the YOLO heads)."
        )
    boxes, scores = predictions.boxes.detach().float(), predictions.scores.detach().float()
    if not bool(torch.isfinite(boxes).all() & torch.isfinite(scores).all()):
        raise FloatingPointError(f"{owner}: predictions contain NaN or infinity.")
    return Predictions(boxes, scores, predictions.gt_classes)


def check_tie_rule(owner: str, tie: str) -> None:
    """Refuse an unknown rule for priors that tie with the k-th best.

    Raises:
        ValueError: neither ``value`` nor ``index``.
    """
    if tie not in ("value", "index"):
        raise ValueError(f"{owner}: tie must be 'value' or 'index', got {tie!r}.")
