"""MaxIoU, RKA and ATSS as slow, obvious loops; boxes are (cx, cy, w, h) tuples."""

from __future__ import annotations

import math

from tests.reference.hla import TIE, center, giou, wd2


def iou(p, g):
    w = min(p[0] + p[2] / 2, g[0] + g[2] / 2) - max(p[0] - p[2] / 2, g[0] - g[2] / 2)
    h = min(p[1] + p[3] / 2, g[1] + g[3] / 2) - max(p[1] - p[3] / 2, g[1] - g[3] / 2)
    inter = max(w, 0.0) * max(h, 0.0)
    return inter / (p[2] * p[3] + g[2] * g[3] - inter)


METRICS = {
    "iou": iou,
    "giou": giou,
    "nwd": lambda p, g: math.exp(-math.sqrt(wd2(p, g)) / 12.8),
    "dotd": lambda p, g: math.exp(-math.sqrt((p[0] - g[0]) ** 2 + (p[1] - g[1]) ** 2 + 1e-6) / 12.7),
}


def reaches(value, limit):
    return value >= limit - TIE * abs(limit)


def table(priors, gts, metric):
    return [[METRICS[metric](p, g) for p in map(center, priors)] for g in map(center, gts)]


def max_iou(priors, gts, metric="iou", pos=0.7, neg=0.3, min_quality=0.0):
    """1-based ground truth, 0 negative, -1 ignored."""
    rows, out = table(priors, gts, metric), []
    tops = [max(row) for row in rows]
    for j in range(len(priors)):
        column = [row[j] for row in rows]
        best = max(column)
        first = next(i for i, v in enumerate(column) if reaches(v, best))
        low = any(t > min_quality and reaches(v, t) for v, t in zip(column, tops, strict=True))
        out.append(first + 1 if reaches(best, pos) or low else -1 if reaches(best, neg) else 0)
    return out


def rka(priors, gts, k=2, neg=0.3):
    rows = table(priors, gts, "nwd")
    out = [-1 if any(reaches(row[j], neg) for row in rows) else 0 for j in range(len(priors))]
    for i, row in enumerate(rows):
        kth = sorted(row, reverse=True)[min(k, len(row)) - 1]
        for j, value in enumerate(row):
            if reaches(value, kth):
                out[j] = i + 1
    return out


def atss(levels, gts, k=9):
    """``levels`` are lists of priors; flat indices run through them in order."""
    flat = [center(p) for level in levels for p in level]
    best = [(-1.0, 0)] * len(flat)
    for i, g in enumerate(map(center, gts)):
        candidates, start = [], 0
        for level in levels:
            distance = [(flat[j][0] - g[0]) ** 2 + (flat[j][1] - g[1]) ** 2 for j in range(start, start + len(level))]
            order = sorted(range(len(level)), key=lambda j: (round(distance[j], 9), j))
            candidates += [start + j for j in order[:k]]
            start += len(level)
        values = [iou(flat[j], g) for j in candidates]
        mean = sum(values) / len(values)
        spread = math.sqrt(sum((v - mean) ** 2 for v in values) / max(1, len(values) - 1))
        for j, value in zip(candidates, values, strict=True):
            dx, dy = abs(flat[j][0] - g[0]), abs(flat[j][1] - g[1])
            inside = min(g[2] / 2 - dx, g[3] / 2 - dy) > 0.01
            if inside and reaches(value, mean + spread) and value > best[j][0] + TIE:
                best[j] = (value, i + 1)
    return [number for _, number in best]
