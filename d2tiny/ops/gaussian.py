"""Similarity of a prior and a ground truth that are both seen as Gaussians, and its relatives.

A box (cx, cy, w, h) is the Gaussian N((cx, cy), diag((w/2)², (h/2)²)) (RFLA, ECCV 2022). All functions take the
offset of the centres and the two sizes instead of boxes, so that the dense and the windowed label assignment
compute exactly the same numbers; they broadcast, and every score falls (or stays) when |dx| or |dy| grows, which
is what makes the windowed search exact.

Letters: ``dx, dy`` centre offset prior − ground truth, ``pw, ph`` prior size, ``gw, gh`` ground-truth size, in px.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from d2tiny.utils.errors import did_you_mean

__all__ = ["EPS", "SCORES", "ScoreFn", "get_score", "giou_score", "kld", "wasserstein2"]

ScoreFn = Callable[[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor], Tensor]

# The released RFLA code adds this to every width and height.
EPS = 1e-6


def kld(dx: Tensor, dy: Tensor, pw: Tensor, ph: Tensor, gw: Tensor, gh: Tensor) -> Tensor:
    """Kullback-Leibler divergence KL(N_prior ‖ N_gt) ≥ 0; the ground truth is the reference (RFLA eq. 5)."""
    pw, ph, gw, gh = pw + EPS, ph + EPS, gw + EPS, gh + EPS
    ratio_w, ratio_h = (pw / gw) ** 2, (ph / gh) ** 2
    shape = ratio_w + ratio_h - torch.log(ratio_w) - torch.log(ratio_h) - 2
    return 0.5 * (shape + 4 * dx**2 / gw**2 + 4 * dy**2 / gh**2)


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


SCORES: dict[str, ScoreFn] = {
    "kld": _kld_score,
    "kld_10": _kld10_score,
    "kld_exp": _kld_exp_score,
    "wd": _wd_score,
    "giou": giou_score,
}


def get_score(metric: str) -> ScoreFn:
    """Return the score function of a metric name.

    Raises:
        ValueError: unknown metric; says which exist.
    """
    if metric not in SCORES:
        raise ValueError(f"Unknown metric '{metric}'. {did_you_mean(metric, SCORES)}")
    return SCORES[metric]
