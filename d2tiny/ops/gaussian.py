"""Similarity scores of a prior and a ground truth: Gaussian distances (RFLA, NWD, DotD) and overlaps.

A box (cx, cy, w, h) is modelled as the Gaussian N((cx, cy), diag((w/2)², (h/2)²)) (RFLA, ECCV 2022). All functions
take the offset of the centres and the two sizes instead of boxes, so that dense and windowed label assignment compute
exactly the same numbers. They broadcast. No score increases with |dx| or |dy|, which makes the windowed search exact.

Arguments: ``dx, dy`` centre of the prior minus centre of the ground truth, ``pw, ph`` size of the prior, ``gw, gh``
size of the ground truth, all in px.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from d2tiny.utils.errors import did_you_mean

__all__ = [
    "BOUND_ROUNDING",
    "EPS",
    "SCORES",
    "Score",
    "ScoreFn",
    "clamped_size_bound",
    "dotd_score",
    "get_score",
    "giou_score",
    "iou_score",
    "kld",
    "nwd_score",
    "wasserstein2",
]

ScoreFn = Callable[..., Tensor]


@dataclass(frozen=True)
class Score:
    """A score with an upper bound, so that the best priors can be found without computing it for every prior.

    Attributes:
        value: the score as a function of ``(dx, dy, pw, ph, gw, gh)``.
        upper_bound: largest score of any prior at least ``dx, dy`` away (both ≥ 0) whose size lies in a range, as a
            function of ``(dx, dy, pw_low, pw_high, ph_low, ph_high, gw, gh)``; None if no bound is known, then the
            search computes the score of every prior.
        symmetric: whether exchanging prior and ground truth keeps the score.
        floor: a prior must score more than this to be among the best. It is 0 for scores in [0, 1]: the scores of an
            object that is far from all priors underflow to 0, and that tie does not rank the priors.
    """

    value: ScoreFn
    upper_bound: ScoreFn | None = None
    symmetric: bool = False
    floor: float = -math.inf

    def swapped(self) -> Score:
        """Return the score with the roles of prior and ground truth exchanged."""
        value = self.value
        if self.symmetric:
            return self
        return Score(lambda dx, dy, pw, ph, gw, gh: value(dx, dy, gw, gh, pw, ph), floor=self.floor)

    def __call__(self, *args: Tensor) -> Tensor:
        """Return the score of ``(dx, dy, pw, ph, gw, gh)``."""
        return self.value(*args)

    def with_scaled_priors(self, ratio: float) -> Score:
        """Return the score of priors whose sizes are multiplied by ``ratio`` about their centres."""
        value, upper_bound = self.value, self.upper_bound

        def scaled(dx: Tensor, dy: Tensor, pw: Tensor, ph: Tensor, gw: Tensor, gh: Tensor) -> Tensor:
            return value(dx, dy, pw * ratio, ph * ratio, gw, gh)

        def scaled_upper(dx: Tensor, dy: Tensor, *sizes: Tensor) -> Tensor:
            assert upper_bound is not None
            return upper_bound(dx, dy, *(size * ratio for size in sizes[:4]), *sizes[4:])

        return Score(scaled, None if upper_bound is None else scaled_upper, floor=self.floor)


def clamped_size_bound(value: ScoreFn) -> ScoreFn:
    """Return the upper bound of a score that is highest where the prior has the size of the ground truth, in each axis.

    The bound is the score of a prior with the ground truth's size, clamped to the range of sizes.
    """

    def upper(
        dx: Tensor, dy: Tensor, w_low: Tensor, w_high: Tensor, h_low: Tensor, h_high: Tensor, gw: Tensor, gh: Tensor
    ) -> Tensor:
        width, height = gw.maximum(w_low).minimum(w_high), gh.maximum(h_low).minimum(h_high)
        return value(dx, dy, width, height, gw, gh)

    return upper


# The released RFLA code adds this to every width and height.
EPS = 1e-6


def kld(dx: Tensor, dy: Tensor, pw: Tensor, ph: Tensor, gw: Tensor, gh: Tensor) -> Tensor:
    """Return the Kullback-Leibler divergence KL(N_prior ‖ N_gt) ≥ 0; the ground truth is the reference (RFLA eq. 5)."""
    pw, ph, gw, gh = pw + EPS, ph + EPS, gw + EPS, gh + EPS
    # Terms of one box alone are combined first, because they are small next to a (ground truth × prior) matrix.
    shape = 2 * (torch.log(gw) + torch.log(gh)) - 2 * (torch.log(pw) + torch.log(ph)) - 2
    # x and y enter symmetrically: exchanging them changes no bit, so that symmetric priors have equal scores.
    size, position = pw**2 * gw**-2 + ph**2 * gh**-2, dx**2 * gw**-2 + dy**2 * gh**-2
    return 0.5 * (size + 4 * position + shape)


def wasserstein2(dx: Tensor, dy: Tensor, pw: Tensor, ph: Tensor, gw: Tensor, gh: Tensor) -> Tensor:
    """Return the squared 2-Wasserstein distance of the two Gaussians in px² (RFLA eq. 4)."""
    return ((gw - pw) ** 2 + (gh - ph) ** 2) / 4 + EPS + (dx**2 + dy**2)


def giou_score(dx: Tensor, dy: Tensor, pw: Tensor, ph: Tensor, gw: Tensor, gh: Tensor) -> Tensor:
    """Return the generalised IoU in (−1, 1] (Rezatofighi et al., CVPR 2019)."""
    half_w, half_h = (pw + gw) / 2, (ph + gh) / 2
    # min/max of the sizes first: inside the plateau of full containment the value is exactly constant.
    inter_w = torch.minimum(torch.minimum(pw, gw), half_w - dx.abs()).clamp(min=0)
    inter_h = torch.minimum(torch.minimum(ph, gh), half_h - dy.abs()).clamp(min=0)
    hull_w = torch.maximum(torch.maximum(pw, gw), half_w + dx.abs())
    hull_h = torch.maximum(torch.maximum(ph, gh), half_h + dy.abs())
    inter = inter_w * inter_h
    union = pw * ph + gw * gh - inter
    hull = hull_w * hull_h
    return inter / (union + EPS) - (hull - union) / (hull + EPS)


def _kld_score(*args: Tensor) -> Tensor:
    return 1 / (1 + kld(*args))


def _kld10_score(*args: Tensor) -> Tensor:
    return 1 / (10 + kld(*args))


def _kld_exp_score(*args: Tensor) -> Tensor:
    return torch.exp(-kld(*args) / 10)


def _wd_score(*args: Tensor) -> Tensor:
    return 1 / (1 + wasserstein2(*args))


def nwd_score(*args: Tensor, constant: float = 12.8) -> Tensor:
    """Return the normalised Wasserstein distance ``exp(−W₂ / C)`` in (0, 1) (Xu et al., 2022, eq. 8)."""
    return torch.exp(-torch.sqrt(wasserstein2(*args)) / constant)


def dotd_score(
    dx: Tensor, dy: Tensor, pw: Tensor, ph: Tensor, gw: Tensor, gh: Tensor, constant: float = 12.7
) -> Tensor:
    """Return the dot distance ``exp(−|Δ| / S)`` in (0, 1), which ignores sizes (Xu et al., CVPRW 2021)."""
    return torch.exp(-torch.sqrt(dx**2 + dy**2 + EPS) / constant) + 0 * (pw + ph + gw + gh)


def iou_score(dx: Tensor, dy: Tensor, pw: Tensor, ph: Tensor, gw: Tensor, gh: Tensor) -> Tensor:
    """Return the intersection over union in [0, 1]."""
    # min of the sizes first: inside the plateau of full containment the value is exactly constant.
    inter_w = torch.minimum(torch.minimum(pw, gw), (pw + gw) / 2 - dx.abs()).clamp(min=0)
    inter_h = torch.minimum(torch.minimum(ph, gh), (ph + gh) / 2 - dy.abs()).clamp(min=0)
    inter = inter_w * inter_h
    return inter / (pw * ph + gw * gh - inter)


# Added to bounds of IoU and GIoU, because the areas they subtract round.
BOUND_ROUNDING = 1e-9


def _largest_overlap(
    dx: Tensor, dy: Tensor, w_low: Tensor, w_high: Tensor, h_low: Tensor, h_high: Tensor, gw: Tensor, gh: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the largest intersection with the ground truth, and the smallest and the largest union with it."""
    inter_w = torch.minimum(torch.minimum(w_high, gw), (w_high + gw) / 2 - dx).clamp(min=0)
    inter_h = torch.minimum(torch.minimum(h_high, gh), (h_high + gh) / 2 - dy).clamp(min=0)
    inter = inter_w * inter_h
    return inter, torch.maximum(w_low * h_low, inter) + gw * gh - inter, w_high * h_high + gw * gh - inter


def _iou_bound(*args: Tensor) -> Tensor:
    inter, union, _ = _largest_overlap(*args)
    return inter / union + BOUND_ROUNDING


def _giou_bound(
    dx: Tensor, dy: Tensor, w_low: Tensor, w_high: Tensor, h_low: Tensor, h_high: Tensor, gw: Tensor, gh: Tensor
) -> Tensor:
    """Return an upper bound of GIoU = I/U + U/H - 1 for intersection I, union U and hull H ≥ U.

    GIoU increases with I, decreases with H, and is convex in U, so that its maximum is at one end of the range of U.
    """
    inter, union, union_high = _largest_overlap(dx, dy, w_low, w_high, h_low, h_high, gw, gh)
    hull_w = torch.maximum(torch.maximum(w_low, gw), (w_low + gw) / 2 + dx)
    hull_h = torch.maximum(torch.maximum(h_low, gh), (h_low + gh) / 2 + dy)
    hull, union = hull_w * hull_h + EPS, union + EPS
    union_high = torch.maximum(torch.minimum(union_high + EPS, hull), union)
    bound = torch.maximum(inter / union + union / hull, inter / union_high + union_high / hull)
    return bound - 1 + BOUND_ROUNDING


SCORES: dict[str, Score] = {
    "kld": Score(_kld_score, clamped_size_bound(_kld_score), floor=0.0),
    "kld_10": Score(_kld10_score, clamped_size_bound(_kld10_score), floor=0.0),
    "kld_exp": Score(_kld_exp_score, clamped_size_bound(_kld_exp_score), floor=0.0),
    "wd": Score(_wd_score, clamped_size_bound(_wd_score), symmetric=True, floor=0.0),
    "giou": Score(giou_score, _giou_bound, symmetric=True),
    "iou": Score(iou_score, _iou_bound, symmetric=True, floor=0.0),
    "nwd": Score(nwd_score, clamped_size_bound(nwd_score), symmetric=True, floor=0.0),
    "dotd": Score(dotd_score, clamped_size_bound(dotd_score), symmetric=True, floor=0.0),
}
# Scores with a constant in px: the mean object size of the dataset.
_SCALED = ("nwd", "dotd")


def get_score(metric: str, constant: float | None = None, error_prefix: str = "") -> Score:
    """Return the score function of a metric name.

    Args:
        metric: a key of :data:`SCORES`.
        constant: C of ``nwd`` or S of ``dotd`` in px, about the mean size √(w·h) of the objects; None uses AI-TOD's
            12.8 px and 12.7 px.
        error_prefix: start of the error messages, for example the name of the caller.

    Raises:
        ValueError: unknown metric, a constant for a metric that has none, or a constant that is not positive.
    """
    if metric not in SCORES:
        raise ValueError(f"{error_prefix}unknown metric '{metric}'. {did_you_mean(metric, SCORES)}")
    if constant is None:
        return SCORES[metric]
    if metric not in _SCALED:
        raise ValueError(f"{error_prefix}constant goes with {' and '.join(_SCALED)}, not with '{metric}'.")
    if constant <= 0:
        raise ValueError(f"{error_prefix}constant must be > 0 px, got {constant}.")
    value = partial(SCORES[metric].value, constant=constant)
    return Score(value, clamped_size_bound(value), symmetric=True, floor=0.0)
