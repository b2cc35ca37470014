"""Evaluation as slow obvious loops over Python lists."""

from __future__ import annotations

import numpy as np


def iou(a, b, plus=0.0):
    """IoU of two XYWH boxes."""
    w = min(a[0] + a[2], b[0] + b[2]) - max(a[0], b[0]) + plus
    h = min(a[1] + a[3], b[1] + b[3]) - max(a[1], b[1]) + plus
    if w <= 0 or h <= 0:
        return 0.0
    inter = w * h
    return inter / ((a[2] + plus) * (a[3] + plus) + (b[2] + plus) * (b[3] + plus) - inter)


def share_inside(a, b):
    """Share of box a that lies in box b."""
    w = min(a[0] + a[2], b[0] + b[2]) - max(a[0], b[0])
    h = min(a[1] + a[3], b[1] + b[3]) - max(a[1], b[1])
    return w * h / (a[2] * a[3]) if w > 0 and h > 0 else 0.0


def voc_flags(truth, found, category, threshold, plus, strict):
    """VOC matching of one class: list of 1 (true), 0 (false), None (difficult), and the number of objects."""
    objects = [a for a in truth["annotations"] if a["category_id"] == category]
    order = sorted((d for d in found if d["category_id"] == category), key=lambda d: (-d["score"], d["image_id"]))
    taken, flags = set(), []
    for d in order:
        here = [a for a in objects if a["image_id"] == d["image_id"]]
        values = [iou(d["bbox"], a["bbox"], plus) for a in here]
        best = max(values, default=0.0)
        if not here or not (best > threshold if strict else best >= threshold):
            flags.append(0)
            continue
        chosen = here[values.index(best)]
        if chosen["iscrowd"]:
            flags.append(None)
        else:
            flags.append(0 if id(chosen) in taken else 1)
            taken.add(id(chosen))
    return flags, sum(not a["iscrowd"] for a in objects)


def curve(flags, positives):
    """Recall and precision after each detection that counts."""
    counted = np.array([f for f in flags if f is not None], dtype=float)
    tp = np.cumsum(counted)
    return tp / positives, tp / np.maximum(np.arange(1, len(counted) + 1), 1)


def optimal_lrp(flags, ious, scores, positives, tau=0.5):
    """LRP at every prefix; the smallest, its parts, its score."""
    best = None
    for n in range(1, len(flags) + 1):
        tp = sum(f == 1 for f in flags[:n])
        fp = sum(f == 0 for f in flags[:n])
        loss = sum(1 - v for f, v in zip(flags[:n], ious[:n], strict=True) if f == 1)
        fn = positives - tp
        value = (loss / (1 - tau) + fp + fn) / (tp + fp + fn)
        if tp and (best is None or value < best[0] - 1e-15):
            best = (value, loss / tp, fp / (tp + fp), fn / positives, scores[n - 1])
    return best


def visdrone(truth, found, regions, size, limit):
    """VisDrone's toolkit for one list of detections: mean AP and mean AR over (image, class) pairs, in percent.

    After dropObjectsInIgr, evalRes and calcAccuracy of the toolkit, in words: drop what is at least half covered;
    the first rows of each image; match the best real object first, ignored ones only if none fits, those many times;
    recall over all objects, ignored ones included.
    """
    width, height = size

    def outside(image, box):
        if not regions.get(image):
            return True
        covered = np.zeros((height + 2, width + 2), bool)
        for x, y, w, h in regions[image]:
            x, y = max(1, x), max(1, y)
            covered[y : min(height, y + h) + 1, x : min(width, x + w) + 1] = True
        x, y, w, h = (max(1, int(np.floor(v + 0.5))) for v in box)
        x, y = min(width, x), min(height, y)
        inside = covered[y + 1 : min(height, y + h) + 1, x + 1 : min(width, x + w) + 1].sum()
        return inside / (w * h) < 0.5

    objects = [a for a in truth["annotations"] if outside(a["image_id"], a["bbox"])]
    kept = []
    for image in truth["images"]:
        rows = [d for d in found if d["image_id"] == image["id"] and outside(image["id"], d["bbox"])]
        kept += sorted(rows, key=lambda d: -d["score"])[:limit]
    aps, ars = [], []
    for threshold in np.linspace(0.5, 0.95, 10):
        for category in sorted({a["category_id"] for a in objects}):
            mine = [a for a in objects if a["category_id"] == category]
            taken, flags = set(), []
            for d in sorted((d for d in kept if d["category_id"] == category), key=lambda d: -d["score"]):
                best, chosen = threshold, None
                here = [a for a in mine if a["image_id"] == d["image_id"]]
                for a in sorted(here, key=lambda a: a["iscrowd"]):
                    if a["iscrowd"] and chosen is not None and not chosen["iscrowd"]:
                        break
                    value = (share_inside if a["iscrowd"] else iou)(d["bbox"], a["bbox"])
                    if id(a) in taken or value < best:
                        continue
                    best, chosen = value, a
                if chosen is None:
                    flags.append(0)
                elif chosen["iscrowd"]:
                    flags.append(None)
                else:
                    flags.append(1)
                    taken.add(id(chosen))
            recall, precision = curve(flags, len(mine))
            recall = np.concatenate(([0], recall, [recall[-1] if len(recall) else 0]))
            precision = np.concatenate(([0], precision, [0]))
            envelope = np.maximum.accumulate(precision[::-1])[::-1]
            ap = float((np.diff(recall) * envelope[1:]).sum())
            weight = len({a["image_id"] for a in mine})
            aps += [ap] * weight
            ars += [recall.max()] * weight
    return 100 * np.mean(aps), 100 * np.mean(ars)
