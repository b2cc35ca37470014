"""The contract of dense label assignment."""

from __future__ import annotations

import abc
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from d2tiny.modeling.priors.grid import GridPriors
from d2tiny.ops.block_topk import Blocks
from d2tiny.ops.boxes import max_iof, xyxy_to_cxcywh
from d2tiny.ops.gaussian import ScoreFn
from d2tiny.ops.grid_topk import PriorGrids
from d2tiny.ops.matches import Matches
from d2tiny.ops.prior_search import priors_above
from d2tiny.utils.checks import check_boxes

__all__ = ["AssignResult", "Assigner", "Predictions"]

Priors = GridPriors | Tensor


@dataclass(frozen=True)
class AssignResult:
    """Who is positive.

    Attributes:
        matched_idxs: (N,) int64, 0-based index of the matched ground truth, −1 where there is none.
        labels: (N,) int8, 1 positive, 0 negative, −1 ignored.
        quality: (N,) float32, the assigner's score of the match, 0 where there is none.
    """

    matched_idxs: Tensor
    labels: Tensor
    quality: Tensor


@dataclass(frozen=True)
class Predictions:
    """What a model says of one image now, for assigners that look at it (SimOTA, TAL).

    Attributes:
        boxes: (N, 4) XYXY px.
        scores: (N, K) in [0, 1], of being an object of a class.
        gt_classes: (G,) int64, of the ground truths: with their class scores are compared.
    """

    boxes: Tensor
    scores: Tensor
    gt_classes: Tensor


class Assigner(abc.ABC):
    """Labels the priors of one image. A pure function of its inputs: nothing is modified or remembered."""

    def __init__(self, *, ignore_iof_thresh: float = 0.5) -> None:
        """Set what all assigners share.

        Args:
            ignore_iof_thresh: a prior that is not positive is ignored when more than this share of its own area
                lies in one ignore region; 1 or more switches it off.
        """
        self.ignore_iof_thresh = ignore_iof_thresh

    @torch.no_grad()
    def __call__(
        self,
        priors: Priors,
        gt_boxes: Tensor,
        *,
        ignore_boxes: Tensor | None = None,
        predictions: Predictions | None = None,
    ) -> AssignResult:
        """Label the priors.

        Args:
            priors: a :class:`GridPriors` or an (N, 4) XYXY tensor.
            gt_boxes: (G, 4) XYXY; G = 0 gives all negatives. A box without area gets no prior.
            ignore_boxes: (R, 4) XYXY regions not to be learned.
            predictions: for assigners that look at the model's output; the others do not.

        Raises:
            ValueError: boxes of a wrong shape or with NaN.
        """
        check_boxes(gt_boxes, "gt_boxes")
        if isinstance(priors, Tensor):
            check_boxes(priors, "priors")
        gt_boxes = gt_boxes.detach().double()
        valid = ((gt_boxes[:, 2:] - gt_boxes[:, :2]) > 0).all(dim=1).nonzero().flatten()
        if len(priors) and len(valid):
            if predictions is not None:
                predictions = replace(predictions, gt_classes=predictions.gt_classes[valid])
            result = self._assign(priors, gt_boxes[valid], predictions)
        else:
            result = empty_result(len(priors), gt_boxes.device)
        matched = result.matched_idxs
        if len(valid) != len(gt_boxes) and len(valid):
            matched = torch.where(matched >= 0, valid[matched.clamp(min=0)], matched)
        labels = result.labels
        if ignore_boxes is not None and len(ignore_boxes) and self.ignore_iof_thresh < 1:
            check_boxes(ignore_boxes, "ignore_boxes")
            boxes = priors if isinstance(priors, Tensor) else priors.boxes()
            inside = max_iof(boxes.float(), ignore_boxes.float())
            inside = inside > self.ignore_iof_thresh
            labels = torch.where(inside & (labels == 0), torch.full_like(labels, -1), labels)
        return AssignResult(matched, labels, result.quality)

    @abc.abstractmethod
    def _assign(self, priors: Priors, gt_boxes: Tensor, predictions: Predictions | None) -> AssignResult:
        """Label the priors; there are some, and ``gt_boxes`` are float64 and have an area."""

    def __repr__(self) -> str:
        settings = ", ".join(f"{k}={v!r}" for k, v in vars(self).items() if not k.startswith("_"))
        return f"{type(self).__name__}({settings})"


def searchable(priors: Priors) -> PriorGrids | Blocks:
    """Return priors as :mod:`d2tiny.ops.prior_search` takes them: regular grids, or blocks of boxes."""
    return Blocks.from_boxes(xyxy_to_cxcywh(priors.double())) if isinstance(priors, Tensor) else priors.prior_grids


def last_winner(matches: Matches, num_priors: int) -> tuple[Tensor, Tensor]:
    """Give each prior to the last ground truth that chose it (the released codes overwrite in that order).

    Returns:
        matched (N,) int64, -1 where nobody chose it; quality (N,) float32, the score with the winner.
    """
    matched = torch.full((num_priors,), -1, dtype=torch.int64, device=matches.gt.device)
    matched.scatter_reduce_(0, matches.prior, matches.gt, "amax")
    quality = torch.zeros(num_priors, dtype=torch.float32, device=matches.gt.device)
    won = matched[matches.prior] == matches.gt
    quality[matches.prior[won]] = matches.score[won].float()
    return matched, quality


class Winners:
    """For each prior the ground truth with the highest score so far, the first of equal ones."""

    def __init__(self, num_priors: int, device: torch.device) -> None:
        self.score = torch.full((num_priors,), -torch.inf, dtype=torch.float64, device=device)
        self.gt = torch.full((num_priors,), torch.iinfo(torch.int64).max, device=device)

    def add(self, pairs: Matches) -> None:
        """Let more pairs compete."""
        best = self.score.scatter_reduce(0, pairs.prior, pairs.score, "amax")
        self.gt = torch.where(best > self.score, torch.iinfo(torch.int64).max, self.gt)
        won = pairs.score == best[pairs.prior]
        self.gt.scatter_reduce_(0, pairs.prior[won], pairs.gt[won], "amin")
        self.score = best

    def matched(self) -> Tensor:
        """(N,) int64 the winners, -1 where there is none."""
        return torch.where(torch.isfinite(self.score), self.gt, -1)


def best_winner(matches: Matches, num_priors: int) -> tuple[Tensor, Tensor]:
    """Give each prior to the ground truth with the highest score, the first of equal ones.

    Returns:
        matched (N,) int64, -1 where there is no pair; best (N,) float64, -inf there.
    """
    winners = Winners(num_priors, matches.gt.device)
    winners.add(matches)
    return winners.matched(), winners.score


def fits_any(priors: PriorGrids | Blocks, gts: Tensor, score: ScoreFn, threshold: float, num_priors: int) -> Tensor:
    """(N,) whether a prior scores at least ``threshold`` with some ground truth."""
    mask = torch.zeros(num_priors, dtype=torch.bool, device=gts.device)
    for pairs in priors_above(priors, gts, score, threshold):
        mask[pairs.prior] = True
    return mask


def check_tie(who: str, tie: str) -> None:
    """Refuse an unknown tie rule.

    Raises:
        ValueError: neither ``value`` nor ``index``.
    """
    if tie not in ("value", "index"):
        raise ValueError(f"{who}: tie must be 'value' or 'index', got {tie!r}.")


def labelled(matched: Tensor, quality: Tensor, fitting: Tensor) -> AssignResult:
    """Positive where matched, ignored where a prior fits (N,) without being chosen, else negative."""
    return AssignResult(matched, torch.where(matched >= 0, 1, torch.where(fitting, -1, 0)).to(torch.int8), quality)


def need_predictions(who: str, predictions: Predictions | None) -> Predictions:
    """The predictions, as float32.

    Raises:
        ValueError: there are none.
        FloatingPointError: NaN or infinity among them.
    """
    if predictions is None:
        raise ValueError(
            f"{who} looks at the model's predictions: it needs a head that hands them on (the YOLO heads)."
        )
    boxes, scores = predictions.boxes.detach().float(), predictions.scores.detach().float()
    if not bool(torch.isfinite(boxes).all() & torch.isfinite(scores).all()):
        raise FloatingPointError(f"{who}: predictions contain NaN or infinity.")
    return Predictions(boxes, scores, predictions.gt_classes)


def one_each(chosen: Matches, contest: Winners, num_priors: int) -> Tensor:
    """(N,) the ground truth of each prior, -1 without one: who chose it alone, or of several who wins the contest.

    The contest is among all candidates of the prior, so that one can win who did not choose it (as released codes do).
    """
    matched, _ = last_winner(chosen, num_priors)
    several = torch.bincount(chosen.prior, minlength=num_priors) > 1
    return torch.where(several, contest.matched(), matched)


def empty_result(num_priors: int, device: torch.device) -> AssignResult:
    """All priors negative."""
    return AssignResult(
        torch.full((num_priors,), -1, dtype=torch.int64, device=device),
        torch.zeros(num_priors, dtype=torch.int8, device=device),
        torch.zeros(num_priors, dtype=torch.float32, device=device),
    )
