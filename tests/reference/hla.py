"""Hierarchical label assignment as slow, obvious loops over ground truths and priors."""

from __future__ import annotations

import math


def center(box):
    x1, y1, x2, y2 = (float(v) for v in box)
    return (x1 + x2) / 2, (y1 + y2) / 2, x2 - x1, y2 - y1


def kld(prior, gt):
    """KL(prior || gt) written out from the definition for diagonal Gaussians."""
    total = 0.0
    for axis in (0, 1):
        mean_p, mean_g = prior[axis], gt[axis]
        var_p = ((prior[axis + 2] + 1e-6) / 2) ** 2
        var_g = ((gt[axis + 2] + 1e-6) / 2) ** 2
        total += 0.5 * (var_p / var_g + (mean_p - mean_g) ** 2 / var_g - 1 + math.log(var_g / var_p))
    return total


def wd2(prior, gt):
    """Squared 2-Wasserstein distance: centres plus half sizes."""
    (px, py, pw, ph), (gx, gy, gw, gh) = prior, gt
    return (px - gx) ** 2 + (py - gy) ** 2 + ((pw - gw) / 2) ** 2 + ((ph - gh) / 2) ** 2 + 1e-6


def giou(prior, gt):
    (px, py, pw, ph), (gx, gy, gw, gh) = prior, gt
    iw = max(0.0, min(px + pw / 2, gx + gw / 2) - max(px - pw / 2, gx - gw / 2))
    ih = max(0.0, min(py + ph / 2, gy + gh / 2) - max(py - ph / 2, gy - gh / 2))
    hull = (max(px + pw / 2, gx + gw / 2) - min(px - pw / 2, gx - gw / 2)) * (
        max(py + ph / 2, gy + gh / 2) - min(py - ph / 2, gy - gh / 2)
    )
    union = pw * ph + gw * gh - iw * ih
    return iw * ih / (union + 1e-6) - (hull - union) / (hull + 1e-6)


SCORES = {
    "kld": lambda p, g: 1 / (1 + kld(p, g)),
    "kld_10": lambda p, g: 1 / (10 + kld(p, g)),
    "kld_exp": lambda p, g: math.exp(-kld(p, g) / 10),
    "wd": lambda p, g: 1 / (1 + wd2(p, g)),
    "giou": giou,
}

TIE = 1e-12  # scores this close (relative) are one number with different rounding


def assign(priors, gts, metric="kld", topk=(3, 1), ratio=0.9):
    """Return 1-based ground-truth numbers, 0 for background, -1 for ignored."""
    score = SCORES[metric]
    priors = [center(p) for p in priors]
    gts = [center(g) for g in gts]

    def stage(shrink, k):
        small = [(x, y, w * shrink, h * shrink) for x, y, w, h in priors]
        table = [[score(p, g) for p in small] for g in gts]
        out = []
        for j in range(len(priors)):
            best = max((row[j] for row in table), default=0.0)
            out.append(-1 if best >= 0.8 else 0)
        for i, row in enumerate(table):
            if k < 1 or not row:
                continue
            kth = sorted(row, reverse=True)[min(k, len(row)) - 1]
            for j, value in enumerate(row):
                if value >= kth - TIE * abs(kth):
                    out[j] = i + 1
        return out

    first, second = stage(1.0, topk[0]), stage(ratio, topk[1])
    return [a if a > 0 else b for a, b in zip(first, second, strict=True)]
