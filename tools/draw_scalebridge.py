#!/usr/bin/env python
"""Draw the predicted density with the queries, and which expert is asked where.

python tools/draw_scalebridge.py --config quick/scalebridge_r18 --weights model_final.pth --image tile.png \
    --output output/scalebridge.jpg
"""

from __future__ import annotations

import argparse
from pathlib import Path

import cv2
import numpy as np
import torch
from detectron2.engine import DefaultPredictor

from d2tiny import model_zoo
from d2tiny.data.images import read_image
from d2tiny.modeling.meta_arch import TinyDINO
from d2tiny.utils.errors import ConfigError

SIDE = 480  # px of a panel
# of the experts, RGB
COLORS = ((255, 190, 0), (255, 90, 80), (0, 190, 255), (120, 255, 120), (190, 120, 255), (255, 255, 255))


def _panel(image: np.ndarray, title: str) -> np.ndarray:
    """An image enlarged or reduced to the panel, with a line of text below."""
    factor = SIDE / max(image.shape[:2])
    kind = cv2.INTER_AREA if factor < 1 else cv2.INTER_NEAREST
    image = cv2.resize(image, None, fx=factor, fy=factor, interpolation=kind)
    canvas = np.full((SIDE + 28, SIDE, 3), 25, np.uint8)
    canvas[: image.shape[0], : image.shape[1]] = image
    cv2.putText(canvas, title, (6, SIDE + 19), cv2.FONT_HERSHEY_SIMPLEX, 0.45, (240, 240, 240), 1, cv2.LINE_AA)
    return canvas


def _over(image: np.ndarray, colors: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """Colours (h, w, 3) laid over the image by weights (h, w) in [0, 1], cell by cell."""
    size = image.shape[1::-1]
    colors = cv2.resize(colors.astype(np.float32), size, interpolation=cv2.INTER_NEAREST)
    share = cv2.resize(weight.astype(np.float32), size, interpolation=cv2.INTER_NEAREST)[..., None]
    grey = image.mean(axis=2, keepdims=True) * 0.7
    return (grey * (1 - share) + colors * share).clip(0, 255).astype(np.uint8)


def draw(model: TinyDINO, image: np.ndarray) -> np.ndarray:
    """The picture (H, W, 3) RGB: image, density and queries, experts of the finest levels.

    Raises:
        ConfigError: a model without DGQ and without REM.
    """
    tensor = torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1)))
    said = model.explain({"image": tensor, "height": image.shape[0], "width": image.shape[1]})
    panels = [_panel(image, "image")]
    if said.density is not None:
        density = said.density.cpu().numpy()
        heat = cv2.applyColorMap((255 * density / max(density.max(), 1e-6)).astype(np.uint8), cv2.COLORMAP_INFERNO)
        picture = _over(image, heat[:, :, ::-1], np.sqrt(density / max(density.max(), 1e-6)))
        for x, y in said.queries.cpu().numpy():
            cv2.circle(picture, (round(float(x)), round(float(y))), 1, (0, 255, 200), -1)
        panels.append(_panel(picture, f"density: {density.sum():.0f} objects, {len(said.queries)} queries"))
    if said.shares is not None:
        for level in (0, min(2, len(said.shares) - 1)):
            shares = said.shares[level].cpu().numpy()
            best = shares.argmax(axis=0)
            colors = np.array(COLORS, dtype=np.float32)[best % len(COLORS)]
            panels.append(_panel(_over(image, colors, 0.55 * np.ones_like(shares[0])), f"experts, level {level}"))
        legend = np.full((SIDE + 28, 150, 3), 25, np.uint8)
        cells = sum(level[0].numel() for level in said.shares)
        for i, name in enumerate(said.experts):
            share = sum(float(level[i].sum()) for level in said.shares) / cells
            y = 14 + 30 * i
            cv2.rectangle(legend, (10, y), (26, y + 16), COLORS[i % len(COLORS)], -1)
            text = f"{name} {share:.0%}"
            cv2.putText(legend, text, (34, y + 14), cv2.FONT_HERSHEY_SIMPLEX, 0.45, (240, 240, 240), 1, cv2.LINE_AA)
        panels.append(legend)
    if len(panels) == 1:
        raise ConfigError("This model has neither model.density nor model.routing: there is nothing to draw.")
    return np.concatenate(panels, axis=1)


def main() -> None:
    """Write the picture."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", default="quick/scalebridge_r18")
    parser.add_argument("--weights", required=True)
    parser.add_argument("--image", type=Path, required=True)
    parser.add_argument("--output", type=Path, required=True)
    args = parser.parse_args()
    predictor = DefaultPredictor(model_zoo.get_cfg(args.config, args.weights))
    picture = draw(predictor.model, read_image(args.image))
    args.output.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(args.output), picture[:, :, ::-1], [cv2.IMWRITE_JPEG_QUALITY, 88])
    print(f"Picture: {args.output}")


if __name__ == "__main__":
    main()
