#!/usr/bin/env python
"""Draw the predicted density with the queries, and which expert of each category is asked where.

python tools/draw_scalebridge.py --config quick/scalebridge_r18 --weights model_final.pth --image tile.png \
    --output output/scalebridge.jpg

A model that was trained with overrides: ``--config RUN/config.yaml``. ``--blank`` leaves the image itself out, for
images that may not be shown; ``--truth instances.json`` marks the true objects in the density.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import cv2
import numpy as np
import torch
from detectron2.engine import DefaultPredictor

from d2tiny import model_zoo
from d2tiny.cli.common import guarded
from d2tiny.data.datasets import read_coco_json
from d2tiny.data.loading.images import read_image
from d2tiny.modeling.meta_arch import TinyDINO
from d2tiny.utils.errors import ConfigError, DatasetError

SIDE, COLUMNS = 480, 3  # px of a panel, panels of a row
# of the experts of a category, RGB
COLORS = ((255, 190, 0), (0, 190, 255), (255, 90, 80), (120, 255, 120), (190, 120, 255), (255, 255, 255))
QUERY, TRUE = (0, 255, 200), (255, 255, 255)


def _fit(image: np.ndarray) -> np.ndarray:
    """An image enlarged or reduced to the panel."""
    factor = SIDE / max(image.shape[:2])
    kind = cv2.INTER_AREA if factor < 1 else cv2.INTER_NEAREST
    return cv2.resize(image, None, fx=factor, fy=factor, interpolation=kind)


def _write(canvas: np.ndarray, text: str, x: int, y: int) -> None:
    cv2.putText(canvas, text, (x, y), cv2.FONT_HERSHEY_SIMPLEX, 0.42, (240, 240, 240), 1, cv2.LINE_AA)


def _panel(picture: np.ndarray, title: str, legend: list[tuple[tuple[int, int, int], str]]) -> np.ndarray:
    """A picture of the panel's size with two lines below: a title and what the colours mean."""
    height, width = picture.shape[:2]
    canvas = np.full((height + 46, max(width, SIDE), 3), 25, np.uint8)
    canvas[:height, :width] = picture
    _write(canvas, title, 6, height + 17)
    x = 6
    for color, text in legend:
        cv2.rectangle(canvas, (x, height + 26), (x + 12, height + 38), color, -1)
        _write(canvas, text, x + 18, height + 37)
        x += 34 + 8 * len(text)
    return canvas


def _over(image: np.ndarray, colors: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """Colours (h, w, 3) laid over the image by weights (h, w) in [0, 1], cell by cell."""
    size = image.shape[1::-1]
    colors = cv2.resize(colors.astype(np.float32), size, interpolation=cv2.INTER_NEAREST)
    share = cv2.resize(weight.astype(np.float32), size, interpolation=cv2.INTER_NEAREST)[..., None]
    grey = image.mean(axis=2, keepdims=True) * 0.7
    return (grey * (1 - share) + colors * share).clip(0, 255).astype(np.uint8)


def draw(model: TinyDINO, image: np.ndarray, *, blank: bool = False, truth: np.ndarray | None = None) -> np.ndarray:
    """The picture (H, W, 3) RGB: image, density and queries, and of two levels the expert asked in each category.

    Args:
        model: in evaluation mode.
        image: (H, W, 3) RGB.
        blank: leave the image out.
        truth: (G, 2) middles of the true objects in px, marked in the density.

    Raises:
        ConfigError: a model without DGQ and without REM.
    """
    tensor = torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1)))
    said = model.explain({"image": tensor, "height": image.shape[0], "width": image.shape[1]})
    if said.density is None and said.shares is None:
        raise ConfigError("This model has neither model.density nor model.routing: there is nothing to draw.")
    below = np.zeros_like(_fit(image)) if blank else _fit(image)
    panels = [] if blank else [_panel(below, f"image, {image.shape[1]} x {image.shape[0]} px", [])]
    if said.density is not None:
        density = said.density.cpu().numpy()
        heat = cv2.applyColorMap((255 * density / max(density.max(), 1e-6)).astype(np.uint8), cv2.COLORMAP_INFERNO)
        picture = _over(below, heat[:, :, ::-1], np.sqrt(density / max(density.max(), 1e-6)))
        for x, y in said.queries.cpu().numpy() * SIDE / max(image.shape[:2]):
            cv2.circle(picture, (round(float(x)), round(float(y))), 1, QUERY, -1)
        legend = [(QUERY, f"{len(said.queries)} queries begin")]
        for x, y in [] if truth is None else truth * SIDE / max(image.shape[:2]):
            cv2.drawMarker(picture, (round(float(x)), round(float(y))), TRUE, cv2.MARKER_SQUARE, 9, 1)
        if truth is not None:
            legend.append((TRUE, f"{len(truth)} true objects"))
        panels.append(_panel(picture, f"density: {density.sum():.0f} objects", legend))
    if said.shares is not None:
        for level in (0, min(2, len(said.shares) - 1)):
            shares, start = said.shares[level].cpu().numpy(), 0
            for category, names in said.categories.items():
                own = shares[start : start + len(names)]
                start += len(names)
                best = own.argmax(axis=0)
                colors = np.array(COLORS, dtype=np.float32)[best % len(COLORS)]
                part = [float((best == e).mean()) for e in range(len(names))]
                legend = [(COLORS[e % len(COLORS)], f"{name} {part[e]:.0%}") for e, name in enumerate(names)]
                picture = _over(below, colors, np.full(best.shape, 1.0 if blank else 0.5))
                panels.append(_panel(picture, f"level {level}, {category}: {own.sum(0).mean():.0%} of it", legend))
    panels += [np.full_like(panels[0], 25)] * (-len(panels) % COLUMNS)
    return np.concatenate(
        [np.concatenate(panels[i : i + COLUMNS], axis=1) for i in range(0, len(panels), COLUMNS)], axis=0
    )


def main() -> int:
    """Write the picture."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", default="quick/scalebridge_r18")
    parser.add_argument("--weights", required=True)
    parser.add_argument("--image", type=Path, required=True)
    parser.add_argument("--output", type=Path, required=True, help="a .jpg or .png file")
    parser.add_argument("--blank", action="store_true", help="leave the image itself out")
    parser.add_argument("--truth", type=Path, help="COCO json with the image's objects")
    parser.add_argument("--opts", nargs="*", default=[], help="overrides of the config")
    args = parser.parse_args()
    if args.output.suffix.lower() not in (".jpg", ".png"):
        parser.error(f"--output {args.output}: must end in .jpg or .png")
    return guarded(lambda: _draw_file(args))


def _middles(path: Path, name: str) -> np.ndarray:
    """(G, 2) middles of the objects of an image in px.

    Raises:
        DatasetError: the file cannot be read, or does not know the image.
    """
    data = read_coco_json(path)
    number = next((i["id"] for i in data["images"] if Path(i["file_name"]).name == name), None)
    if number is None:
        raise DatasetError(f"{path}: no image '{name}'.")
    found = [a["bbox"] for a in data["annotations"] if a["image_id"] == number and not a.get("iscrowd")]
    boxes = np.array(found, dtype=float).reshape(-1, 4)
    return boxes[:, :2] + boxes[:, 2:] / 2


def _draw_file(args: argparse.Namespace) -> None:
    image = read_image(args.image)
    predictor = DefaultPredictor(model_zoo.get_cfg(args.config, args.weights, args.opts))
    truth = _middles(args.truth, args.image.name) if args.truth else None
    picture = draw(predictor.model, image, blank=args.blank, truth=truth)
    args.output.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(args.output), picture[:, :, ::-1])
    print(f"Picture: {args.output}")


if __name__ == "__main__":
    raise SystemExit(main())
