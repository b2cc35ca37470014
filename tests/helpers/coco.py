"""Ground truth and detections in COCO's format, and the official evaluation of them."""

from __future__ import annotations

import contextlib
import copy
import io

import numpy as np
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from d2tiny.data.coco.arrays import GroundTruth, ground_truth_from_dict


def random_dataset(rng, images=6, classes=3, first_id=1):
    """Return ground truth and detections: crowds, areas on the borders of the bins, an empty image, equal scores."""
    truth = {
        "images": [{"id": i, "width": 200, "height": 200} for i in range(images)],
        "categories": [{"id": 10 + c, "name": f"c{c}"} for c in range(classes)],
        "annotations": [],
    }
    found = []
    for i in range(images - 1):  # the last image is empty
        for _ in range(rng.integers(0, 30)):
            side = rng.choice([4, 8, 16, 32, 40]) if rng.random() < 0.5 else rng.uniform(2, 60)
            x, y = rng.uniform(0, 140, 2)
            w, h = float(side), float(side if rng.random() < 0.7 else rng.uniform(2, 50))
            category = int(10 + rng.integers(0, classes - 1))  # the last class has no ground truth
            truth["annotations"].append(
                {
                    "id": first_id + len(truth["annotations"]),
                    "image_id": i,
                    "category_id": category,
                    "bbox": [float(x), float(y), w, h],
                    "area": w * h,
                    "iscrowd": int(rng.random() < 0.15),
                }
            )
            for _ in range(rng.integers(0, 4)):
                dx, dy, dw, dh = rng.normal(0, 1.5, 4)
                found.append(
                    {
                        "image_id": i,
                        "category_id": category if rng.random() < 0.8 else int(10 + rng.integers(0, classes)),
                        "bbox": [float(x + dx), float(y + dy), max(1.0, w + dw), max(1.0, h + dh)],
                        "score": float(rng.integers(0, 12) / 11),  # many ties
                    }
                )
    return truth, found


def pycoco(truth, found, protocol):
    """Evaluate with pycocotools and a protocol's parameters; return the metrics in percent."""
    with contextlib.redirect_stdout(io.StringIO()):
        gt = COCO()
        gt.dataset = copy.deepcopy(truth)
        gt.createIndex()
        engine = COCOeval(gt, gt.loadRes(copy.deepcopy(found)), "bbox")
        engine.params.iouThrs = np.array(protocol.iou_thresholds)
        engine.params.areaRng = [[0, 1e10], *map(list, protocol.areas.values())]
        engine.params.areaRngLbl = ["all", *protocol.areas]
        engine.params.maxDets = list(protocol.max_dets)
        engine.evaluate()
        engine.accumulate()
    precision, recall = engine.eval["precision"], engine.eval["recall"]

    def mean(values):
        values = values[values > -1]
        return values.mean() * 100 if values.size else np.nan

    result = {
        "AP": mean(precision[..., 0, -1]),
        "AP50": mean(precision[0, ..., 0, -1]),
        "AP75": mean(precision[5, ..., 0, -1]),
    }
    result.update({f"AP{k}": mean(precision[..., i, -1]) for i, k in enumerate(protocol.areas, 1)})
    result.update({f"AR@{k}": mean(recall[:, :, 0, i]) for i, k in enumerate(protocol.max_dets)})
    names = [c["name"] for c in truth["categories"]]
    result.update({f"AP-{n}": mean(precision[:, :, i, 0, -1]) for i, n in enumerate(names)})
    result.update({f"AP50-{n}": mean(precision[0, :, i, 0, -1]) for i, n in enumerate(names)})
    return result


def one_object(**more):
    """Return the ground truth of one image with one ship of 8×8 px; ``more`` are keys of its annotation."""
    return {
        "images": [{"id": 0}],
        "categories": [{"id": 1, "name": "ship"}],
        "annotations": [
            {"id": 0, "image_id": 0, "category_id": 1, "bbox": [10.0, 10, 8, 8], "area": 64.0, "iscrowd": 0, **more}
        ],
    }


def hit(bbox=(10.0, 10, 8, 8), score=0.9):
    """Return a detection, by default that of the ship of :func:`one_object`."""
    return {"image_id": 0, "category_id": 1, "bbox": list(bbox), "score": score}


def truth(boxes=(), images=3, classes=("car", "<b>x"), regions=(), size=(64, 48)) -> GroundTruth:
    """Return ground truth from boxes (image, category, x, y, w, h[, keys]); ids of images and categories start at 1."""
    annotations = []
    for image, category, x, y, w, h, *more in boxes:
        extra = more[0] if more else {}
        annotations.append({"image_id": image, "category_id": category, "bbox": [x, y, w, h], **extra})
    return ground_truth_from_dict(
        {
            "images": [
                {"id": i, "file_name": f"{i}.png", "width": size[0], "height": size[1],
                 "ignored_regions": [list(r[1:]) for r in regions if r[0] == i]}
                for i in range(1, images + 1)
            ],
            "categories": [{"id": i, "name": name} for i, name in enumerate(classes, start=1)],
            "annotations": annotations,
        }
    )  # fmt: skip
