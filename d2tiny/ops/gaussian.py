"""Scores of a prior and a ground truth: Gaussian distances (RFLA, NWD, DotD) and overlaps.

A box (cx, cy, w, h) is the Gaussian N((cx, cy), diag((w/2)², (h/2)²)) (RFLA, ECCV 2022). All functions take the
offset of the centres and the two sizes instead of boxes, so that the dense and the windowed label assignment
compute exactly the same numbers; they broadcast, and every score falls (or stays) when |dx| or |dy| grows, which
is what makes the windowed search exact.

Letters: ``dx, dy`` centre offset prior − ground truth, ``pw, ph`` prior size, ``gw, gh`` ground-truth size, in px.
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
    "EPS",
    "SCORES",
    "Score",
    "ScoreFn",
    "best_size",
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
    """A score that can be searched for without trying every prior.

    Attributes:
        value: the score of ``(dx, dy, pw, ph, gw, gh)``.
        upper: what no prior can surpass that is at least ``dx, dy`` away (both ≥ 0) and whose sizes lie in a range:
            ``(dx, dy, pw low, pw high, ph low, ph high, gw, gh)``. None: such priors are all tried.
        symmetric: whether prior and ground truth may be exchanged.
        floor: what a prior must score more than to be a best one. Scores that can only sink to 0 have it there: an
            object so far from all priors that they tie at 0 says nothing about any of them.
    """

    value: ScoreFn
    upper: ScoreFn | None = None
    symmetric: bool = False
    floor: float = -math.inf

    def exchanged(self) -> Score:
        """Return the score with the roles of prior and ground truth exchanged."""
        value = self.value
        if self.symmetric:
            return self
        return Score(lambda dx, dy, pw, ph, gw, gh: value(dx, dy, gw, gh, pw, ph), floor=self.floor)

    def __call__(self, *args: Tensor) -> Tensor:
        """Return the score of ``(dx, dy, pw, ph, gw, gh)``."""
        return self.value(*args)

    def of_scaled_priors(self, ratio: float) -> Score:
        """Return the same score after all priors shrink (or grow) about their centres."""
        value, upper = self.value, self.upper

        def scaled(dx: Tensor, dy: Tensor, pw: Tensor, ph: Tensor, gw: Tensor, gh: Tensor) -> Tensor:
            return value(dx, dy, pw * ratio, ph * ratio, gw, gh)

        def scaled_upper(dx: Tensor, dy: Tensor, *sizes: Tensor) -> Tensor:
            assert upper is not None
            return upper(dx, dy, *(size * ratio for size in sizes[:4]), *sizes[4:])

        return Score(scaled, None if upper is None else scaled_upper, floor=self.floor)


def best_size(value: ScoreFn) -> ScoreFn:
    """Upper bound of a score that is highest where the prior is as large as the ground truth, in each axis."""

    def upper(
        dx: Tensor, dy: Tensor, w_low: Tensor, w_high: Tensor, h_low: Tensor, h_high: Tensor, gw: Tensor, gh: Tensor
    ) -> Tensor:
        width, height = gw.maximum(w_low).minimum(w_high), gh.maximum(h_low).minimum(h_high)
        return value(dx, dy, width, height, gw, gh)

    return upper


# The released RFLA code adds this to every width and height.
EPS = 1e-6


def kld(dx: Tensor, dy: Tensor, pw: Tensor, ph: Tensor, gw: Tensor, gh: Tensor) -> Tensor:
    """Kullback-Leibler divergence KL(N_prior ‖ N_gt) ≥ 0; the ground truth is the reference (RFLA eq. 5)."""
    pw, ph, gw, gh = pw + EPS, ph + EPS, gw + EPS, gh + EPS
    # Everything that does not depend on both boxes comes first: it costs nothing in a (ground truth × prior) chunk.
    shape = 2 * (torch.log(gw) + torch.log(gh)) - 2 * (torch.log(pw) + torch.log(ph)) - 2
    # Sums pair by pair: exchanging x and y changes no bit, so what ties by symmetry does tie.
    size, place = pw**2 * gw**-2 + ph**2 * gh**-2, dx**2 * gw**-2 + dy**2 * gh**-2
    return 0.5 * (size + 4 * place + shape)


def wasserstein2(dx: Tensor, dy: Tensor, pw: Tensor, ph: Tensor, gw: Tensor, gh: Tensor) -> Tensor:
    """Squared 2-Wasserstein distance of the two Gaussians, in px² (RFLA eq. 4)."""
    return ((gw - pw) ** 2 + (gh - ph) ** 2) / 4 + EPS + (dx**2 + dy**2)


def giou_score(dx: Tensor, dy: Tensor, pw: Tensor, ph: Tensor, gw: Tensor, gh: Tensor) -> Tensor:
    """Generalised IoU in (−1, 1]."""
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
    """Normalised Wasserstein distance ``exp(−W₂ / C)`` in (0, 1) (Xu et al., 2022, eq. 8)."""
    return torch.exp(-torch.sqrt(wasserstein2(*args)) / constant)


def dotd_score(
    dx: Tensor, dy: Tensor, pw: Tensor, ph: Tensor, gw: Tensor, gh: Tensor, constant: float = 12.7
) -> Tensor:
    """Dot distance ``exp(−|Δ| / S)`` in (0, 1): the centres alone (Xu et al., CVPRW 2021)."""
    return torch.exp(-torch.sqrt(dx**2 + dy**2 + EPS) / constant) + 0 * (pw + ph + gw + gh)


def iou_score(dx: Tensor, dy: Tensor, pw: Tensor, ph: Tensor, gw: Tensor, gh: Tensor) -> Tensor:
    """Intersection over union in [0, 1]."""
    # min of the sizes first: inside the plateau of full containment the value is exactly constant.
    inter_w = torch.minimum(torch.minimum(pw, gw), (pw + gw) / 2 - dx.abs()).clamp(min=0)
    inter_h = torch.minimum(torch.minimum(ph, gh), (ph + gh) / 2 - dy.abs()).clamp(min=0)
    inter = inter_w * inter_h
    return inter / (pw * ph + gw * gh - inter)


# IoU is a difference of numbers as large as the boxes: bounds leave room for its rounding.
_ROUNDING = 1e-9


def _largest_overlap(
    dx: Tensor, dy: Tensor, w_low: Tensor, w_high: Tensor, h_low: Tensor, h_high: Tensor, gw: Tensor, gh: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """The largest intersection with the ground truth, and the smallest and the largest union that goes with it."""
    inter_w = torch.minimum(torch.minimum(w_high, gw), (w_high + gw) / 2 - dx).clamp(min=0)
    inter_h = torch.minimum(torch.minimum(h_high, gh), (h_high + gh) / 2 - dy).clamp(min=0)
    inter = inter_w * inter_h
    return inter, torch.maximum(w_low * h_low, inter) + gw * gh - inter, w_high * h_high + gw * gh - inter


def _iou_upper(*args: Tensor) -> Tensor:
    inter, union, _ = _largest_overlap(*args)
    return inter / union + _ROUNDING


def _giou_upper(
    dx: Tensor, dy: Tensor, w_low: Tensor, w_high: Tensor, h_low: Tensor, h_high: Tensor, gw: Tensor, gh: Tensor
) -> Tensor:
    """GIoU = I/U + U/H - 1 rises with I, falls with H, and is convex in U <= H: one of two unions is the worst."""
    inter, union, union_high = _largest_overlap(dx, dy, w_low, w_high, h_low, h_high, gw, gh)
    hull_w = torch.maximum(torch.maximum(w_low, gw), (w_low + gw) / 2 + dx)
    hull_h = torch.maximum(torch.maximum(h_low, gh), (h_low + gh) / 2 + dy)
    hull, union = hull_w * hull_h + EPS, union + EPS
    union_high = torch.maximum(torch.minimum(union_high + EPS, hull), union)
    worst = torch.maximum(inter / union + union / hull, inter / union_high + union_high / hull)
    return worst - 1 + _ROUNDING


SCORES: dict[str, Score] = {
    "kld": Score(_kld_score, best_size(_kld_score), floor=0.0),
    "kld_10": Score(_kld10_score, best_size(_kld10_score), floor=0.0),
    "kld_exp": Score(_kld_exp_score, best_size(_kld_exp_score), floor=0.0),
    "wd": Score(_wd_score, best_size(_wd_score), symmetric=True, floor=0.0),
    "giou": Score(giou_score, _giou_upper, symmetric=True),
    "iou": Score(iou_score, _iou_upper, symmetric=True, floor=0.0),
    "nwd": Score(nwd_score, best_size(nwd_score), symmetric=True, floor=0.0),
    "dotd": Score(dotd_score, best_size(dotd_score), symmetric=True, floor=0.0),
}
# Metrics that are scaled by the mean object size of a dataset, in px.
_SCALED = ("nwd", "dotd")


def get_score(metric: str, constant: float | None = None, who: str = "") -> Score:
    """Return the score function of a metric name.

    Args:
        metric: a key of :data:`SCORES`.
        constant: C of ``nwd`` (12.8 px) or S of ``dotd`` (12.7 px), about the mean size √(w·h) of the objects.
        who: what an error message begins with.

    Raises:
        ValueError: unknown metric, or a constant for one that has none; says what exists.
    """
    if metric not in SCORES:
        raise ValueError(f"{who}unknown metric '{metric}'. {did_you_mean(metric, SCORES)}")
    if constant is None:
        return SCORES[metric]
    if metric not in _SCALED:
        raise ValueError(f"{who}constant goes with {' and '.join(_SCALED)}, not with '{metric}'.")
    if constant <= 0:
        raise ValueError(f"{who}constant must be > 0 px, got {constant}.")
    value = partial(SCORES[metric].value, constant=constant)
    return Score(value, best_size(value), symmetric=True, floor=0.0)
