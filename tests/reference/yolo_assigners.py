"""SimOTA, TAL and YOLOv5's matching, one object and one prior at a time, in float64."""

from __future__ import annotations

import math


def iou(a, b):
    """IoU of two XYXY boxes."""
    w = max(min(a[2], b[2]) - max(a[0], b[0]), 0.0)
    h = max(min(a[3], b[3]) - max(a[1], b[1]), 0.0)
    union = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - w * h
    return w * h / union if union > 0 else 0.0


def ciou(a, b):
    """Complete IoU of prediction a with object b."""
    overlap = iou(a, b)
    cw, ch = max(a[2], b[2]) - min(a[0], b[0]), max(a[3], b[3]) - min(a[1], b[1])
    distance = ((a[0] + a[2] - b[0] - b[2]) / 2) ** 2 + ((a[1] + a[3] - b[1] - b[3]) / 2) ** 2
    shape = math.atan2(b[2] - b[0], b[3] - b[1]) - math.atan2(a[2] - a[0], a[3] - a[1])
    v = 4 / math.pi**2 * shape**2
    alpha = v / (1 - overlap + v) if v else 0.0
    return overlap - distance / (cw**2 + ch**2) - alpha * v


def _resolve_conflicts(selected, rank):
    """Matched object of each prior: the only one that selected it, or of several the best of all candidates."""
    matched = {}
    for prior in {p for prior_set in selected for p in prior_set}:
        selecting = [g for g, prior_set in enumerate(selected) if prior in prior_set]
        if len(selecting) > 1:
            selecting = [min((g for g in range(len(selected)) if prior in rank[g]), key=lambda g: (rank[g][prior], g))]
        matched[prior] = selecting[0]
    return matched


def simota(squares, gts, classes, boxes, scores, radius=1.5, topk=10, weight=3.0, everywhere=False):
    """Matched object of each prior; ``everywhere``: the released rule, where all IoUs make k and others cost 10⁶."""

    def bce(p, y):
        return (
            -max(math.log(p), -100) if y and p > 0 else 100.0 if y else -max(math.log1p(-p), -100) if p < 1 else 100.0
        )

    def zone(square, gt):
        stride = square[2] - square[0]
        dx = abs((square[0] + square[2]) / 2 - (gt[0] + gt[2]) / 2)
        dy = abs((square[1] + square[3]) / 2 - (gt[1] + gt[3]) / 2)
        return radius * stride - max(dx, dy) > 1e-6

    near = [[n for n, s in enumerate(squares) if zone(s, gt)] for gt in gts]
    anywhere = sorted({n for prior_set in near for n in prior_set})
    selected, costs = [], []
    for g, gt in enumerate(gts):
        candidates = anywhere if everywhere else near[g]
        cost = {}
        for n in candidates:
            cls = sum(bce(math.sqrt(p), c == classes[g]) for c, p in enumerate(scores[n]))
            cost[n] = cls - weight * math.log(iou(boxes[n], gt) + 1e-8) + 1e6 * (n not in near[g])
        best = sorted((iou(boxes[n], gt) for n in candidates), reverse=True)[:topk]
        k = max(int(sum(best)), 1)
        selected.append(sorted(cost, key=lambda n: (cost[n], n))[:k])
        costs.append(cost)
    matched = _resolve_conflicts(selected, costs)
    return [matched.get(n, -1) for n in range(len(squares))]


def tal(squares, gts, classes, boxes, scores, topk=10, alpha=0.5, beta=6.0, least=0.0):
    """Matched object and target score of each prior."""
    selected, lost, aligns = [], [], []
    for g, gt in enumerate(gts):
        middle = [(gt[0] + gt[2]) / 2, (gt[1] + gt[3]) / 2]
        half = [(s if s >= least else least * (1 + 1e-6)) / 2 for s in (gt[2] - gt[0], gt[3] - gt[1])]
        align, cost = {}, {}
        for n, s in enumerate(squares):
            x, y = (s[0] + s[2]) / 2, (s[1] + s[3]) / 2
            if min(half[0] - abs(x - middle[0]), half[1] - abs(y - middle[1])) < 1e-9:
                continue
            overlap = max(ciou(boxes[n], gt), 0.0)
            cost[n] = -overlap
            align[n] = scores[n][classes[g]] ** alpha * overlap**beta
        some = [n for n in align if align[n] > 0]
        selected.append(sorted(some, key=lambda n: (-align[n], n))[:topk])
        lost.append(cost)
        aligns.append(align)
    matched = _resolve_conflicts(selected, lost)
    quality = [0.0] * len(squares)
    for g in range(len(gts)):
        own = [n for n, m in matched.items() if m == g]
        if own:
            top, overlap = max(aligns[g][n] for n in own), max(-lost[g][n] for n in own)
            for n in own:
                quality[n] = aligns[g][n] / max(top, 1e-300) * overlap
    return [matched.get(n, -1) for n in range(len(squares))], quality


def ratio_pairs(levels, gts, limit=4.0):
    """Set of (object, prior) of YOLOv5; ``levels`` are (stride, height, width, [(w, h), …])."""
    found, base = set(), 0
    for stride, height, width, anchors in levels:
        for g, (x1, y1, x2, y2) in enumerate(gts):
            gx, gy = (x1 + x2) / 2 / stride, (y1 + y2) / 2 / stride
            for a, (w, h) in enumerate(anchors):
                rw, rh = (x2 - x1) / w, (y2 - y1) / h
                if max(rw, 1 / rw, rh, 1 / rh) >= limit:
                    continue
                cx, cy = (min(max(math.floor(v), 0), n - 1) for v, n in ((gx, width), (gy, height)))
                cells = [(cx, cy)]
                if gx % 1 < 0.5 and gx > 1:
                    cells.append((cx - 1, cy))
                if gy % 1 < 0.5 and gy > 1:
                    cells.append((cx, cy - 1))
                if gx % 1 > 0.5 and width - gx > 1:
                    cells.append((cx + 1, cy))
                if gy % 1 > 0.5 and height - gy > 1:
                    cells.append((cx, cy + 1))
                for x, y in cells:
                    x, y = min(max(x, 0), width - 1), min(max(y, 0), height - 1)
                    found.add((g, base + (y * width + x) * len(anchors) + a))
        base += height * width * len(anchors)
    return found
