#!/usr/bin/env python
"""Draw which priors become positive for objects of 6, 12 and 40 px, one picture for each assigner.

python tools/draw_assigners.py --output docs/images
python tools/draw_assigners.py --image tile.png --output output/assigners     # on your own tile
"""

from __future__ import annotations

import argparse
from pathlib import Path

import cv2
import numpy as np
import torch
from detectron2.modeling.anchor_generator import DefaultAnchorGenerator

from d2tiny.data.loading.images import read_image
from d2tiny.modeling.assigners import Assigner, ATSSAssigner, HLAAssigner, MaxIoUAssigner, RKAAssigner
from d2tiny.modeling.priors import GridPriors, RFAnchorGenerator, grid_from_generator
from d2tiny.synthetic import render_scene

STRIDES = [4, 8, 16, 32, 64]
SIZES = (6.0, 12.0, 40.0)
SIDE, SCALE = 96, 4  # side of the crop in px, enlargement
# P2, P3, P4, P5, P6 in RGB
LEVELS = ((0, 190, 255), (255, 190, 0), (255, 90, 160), (150, 120, 255), (120, 255, 120))


def grid(receptive: bool) -> GridPriors:
    """Return a grid of square anchors: receptive fields, or 8 to 128 px."""
    generator = (
        RFAnchorGenerator(strides=STRIDES, aspect_ratios=[1.0])
        if receptive
        else DefaultAnchorGenerator(
            sizes=[[2.0 * s] for s in STRIDES], aspect_ratios=[1.0], strides=STRIDES, offset=0.0
        )
    )
    maps = [torch.zeros(1, 1, -(-SIDE // s), -(-SIDE // s)) for s in STRIDES]
    return grid_from_generator(generator, maps)


ASSIGNERS: dict[str, tuple[Assigner, bool]] = {
    "maxiou": (MaxIoUAssigner(), False),
    "maxiou_nwd": (MaxIoUAssigner(metric="nwd", min_quality=0.3), False),
    "rka": (RKAAssigner(), False),
    "atss": (ATSSAssigner(), False),
    "hla_kld": (HLAAssigner(), True),
    "hla_wd": (HLAAssigner(metric="wd"), True),
}


def panel(tile: np.ndarray, assigner: Assigner, priors: GridPriors, size: float) -> np.ndarray:
    """Draw an object, the positive priors (dots and boxes, coloured by level) and the ignored ones (small circles)."""
    x, y = SIDE / 2 + 1.3, SIDE / 2 + 0.9  # neither on the grid nor on its diagonal, like real objects
    gt = torch.tensor([[x - size / 2, y - size / 2, x + size / 2, y + size / 2]])
    result = assigner(priors, gt)
    boxes = priors.boxes().numpy()
    counts = np.cumsum([len(level) for level in priors.level_boxes])
    canvas = cv2.resize(tile, None, fx=SCALE, fy=SCALE, interpolation=cv2.INTER_CUBIC)
    canvas = (canvas * 0.6 + 60).astype(np.uint8)

    def to_canvas(values: np.ndarray) -> list[int]:
        return [int(v) for v in np.round(values * SCALE)]

    for label in (-1, 1):
        for i in np.flatnonzero(result.labels.numpy() == label).tolist():
            color = LEVELS[int(np.searchsorted(counts, i, side="right"))]
            x1, y1, x2, y2 = to_canvas(boxes[i])
            if label == 1:
                cv2.rectangle(canvas, (x1, y1), (x2, y2), color, 1)
            cv2.circle(canvas, ((x1 + x2) // 2, (y1 + y2) // 2), 5 if label == 1 else 2, color, -1 if label == 1 else 1)
    x1, y1, x2, y2 = to_canvas(gt[0].numpy())
    cv2.rectangle(canvas, (x1, y1), (x2, y2), (255, 255, 255), 2)
    text = f"{size:.0f} px: {int((result.labels == 1).sum())} positive, {int((result.labels == -1).sum())} ignored"
    strip = np.full((30, canvas.shape[1], 3), 25, np.uint8)
    cv2.putText(strip, text, (8, 20), cv2.FONT_HERSHEY_SIMPLEX, 0.5, (240, 240, 240), 1, cv2.LINE_AA)
    return np.concatenate((canvas, strip))


def main() -> None:
    """Write the pictures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--image", type=Path, help="background, cropped at its centre (default: a synthetic scene)")
    parser.add_argument("--output", type=Path, required=True)
    args = parser.parse_args()
    image = read_image(args.image) if args.image else render_scene(3, height=256, width=256).image
    y, x = (max(0, (side - SIDE) // 2) for side in image.shape[:2])
    tile = image[y : y + SIDE, x : x + SIDE]
    args.output.mkdir(parents=True, exist_ok=True)
    for name, (assigner, receptive) in ASSIGNERS.items():
        priors = grid(receptive)
        gap = np.full((SIDE * SCALE + 30, 6, 3), 255, np.uint8)
        parts = [p for size in SIZES for p in (panel(tile, assigner, priors, size), gap)][:-1]
        picture = np.concatenate(parts, axis=1)
        cv2.imwrite(str(args.output / f"assigner_{name}.jpg"), picture[:, :, ::-1], [cv2.IMWRITE_JPEG_QUALITY, 88])


if __name__ == "__main__":
    main()
