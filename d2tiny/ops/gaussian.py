"""Scores of a prior and a ground truth: Gaussian distances (RFLA, NWD, DotD) and overlaps.

A box (cx, cy, w, h) is the Gaussian N((cx, cy), diag((w/2)², (h/2)²)) (RFLA, ECCV 2022). All functions take the
offset of the centres and the two sizes instead of boxes, so that the dense and the windowed label assignment
compute exactly the same numbers; they broadcast, and every score falls (or stays) when |dx| or |dy| grows, which
is what makes the windowed search exact.

Letters: ``dx, dy`` centre offset prior − ground truth, ``pw, ph`` prior size, ``gw, gh`` ground-truth size, in px.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from d2tiny.utils.errors import did_you_mean

__all__ = [
    "EPS",
    "SCORES",
    "ScoreFn",
    "dotd_score",
    "get_score",
    "giou_score",
    "iou_score",
    "kld",
    "nwd_score",
    "wasserstein2",
]

ScoreFn = Callable[..., Tensor]

# The released RFLA code adds this to every width and height.
EPS = 1e-6


def kld(dx: Tensor, dy: Tensor, pw: Tensor, ph: Tensor, gw: Tensor, gh: Tensor) -> Tensor:
    """Kullback-Leibler divergence KL(N_prior ‖ N_gt) ≥ 0; the ground truth is the reference (RFLA eq. 5)."""
    pw, ph, gw, gh = pw + EPS, ph + EPS, gw + EPS, gh + EPS
    # Everything that does not depend on both boxes comes first: it costs nothing in a (ground truth × prior) chunk.
    shape = 2 * (torch.log(gw) + torch.log(gh)) - 2 * (torch.log(pw) + torch.log(ph)) - 2
    return 0.5 * ((pw**2 + 4 * dx**2) * gw**-2 + (ph**2 + 4 * dy**2) * gh**-2 + shape)


def wasserstein2(dx: Tensor, dy: Tensor, pw: Tensor, ph: Tensor, gw: Tensor, gh: Tensor) -> Tensor:
    """Squared 2-Wasserstein distance of the two Gaussians, in px² (RFLA eq. 4)."""
    return ((gw - pw) ** 2 + (gh - ph) ** 2) / 4 + EPS + dx**2 + dy**2


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


SCORES: dict[str, ScoreFn] = {
    "kld": _kld_score,
    "kld_10": _kld10_score,
    "kld_exp": _kld_exp_score,
    "wd": _wd_score,
    "giou": giou_score,
    "iou": iou_score,
    "nwd": nwd_score,
    "dotd": dotd_score,
}
# Metrics that are scaled by the mean object size of a dataset, in px.
_SCALED = ("nwd", "dotd")


def get_score(metric: str, constant: float | None = None) -> ScoreFn:
    """Return the score function of a metric name.

    Args:
        metric: a key of :data:`SCORES`.
        constant: C of ``nwd`` (12.8 px) or S of ``dotd`` (12.7 px), about the mean size √(w·h) of the objects.

    Raises:
        ValueError: unknown metric, or a constant for one that has none; says what exists.
    """
    if metric not in SCORES:
        raise ValueError(f"Unknown metric '{metric}'. {did_you_mean(metric, SCORES)}")
    if constant is None:
        return SCORES[metric]
    if metric not in _SCALED or constant <= 0:
        raise ValueError(f"constant={constant} must be positive and goes with {' and '.join(_SCALED)}, not '{metric}'.")
    return partial(SCORES[metric], constant=constant)
