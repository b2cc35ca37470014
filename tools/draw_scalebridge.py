#!/usr/bin/env python
"""Draw the predicted density with the queries, the tokens that are updated, and the experts that are used where.

python tools/draw_scalebridge.py --config quick/scalebridge_r18 --weights model_final.pth --image tile.png \
    --output output/scalebridge.jpg

For a model that was trained with overrides give the config of its run, ``--config RUN/config.yaml``. ``--blank`` leaves
the image itself out, for images that must not be published; ``--truth instances.json`` marks the true objects.
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
from d2tiny.visualization import QUERY_COLOR, blend_cells, draw_density

SIDE, COLUMNS = 480, 3  # longest side of a panel in px, panels in a row
# RGB colours of the experts of a category
COLORS = ((255, 190, 0), (0, 190, 255), (255, 90, 80), (120, 255, 120), (190, 120, 255), (255, 255, 255))
TRUE = (255, 255, 255)


def _fit(image: np.ndarray) -> np.ndarray:
    """Resize an image so that its longest side is that of a panel."""
    factor = SIDE / max(image.shape[:2])
    kind = cv2.INTER_AREA if factor < 1 else cv2.INTER_NEAREST
    return cv2.resize(image, None, fx=factor, fy=factor, interpolation=kind)


def _write(canvas: np.ndarray, text: str, x: int, y: int) -> None:
    cv2.putText(canvas, text, (x, y), cv2.FONT_HERSHEY_SIMPLEX, 0.42, (240, 240, 240), 1, cv2.LINE_AA)


def _panel(picture: np.ndarray, title: str, legend: list[tuple[tuple[int, int, int], str]]) -> np.ndarray:
    """Add two lines below a picture: a title, and a legend of colours and their meanings."""
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


def draw(model: TinyDINO, image: np.ndarray, *, blank: bool = False, truth: np.ndarray | None = None) -> np.ndarray:
    """Draw image, density with queries, updated tokens, and for two levels what the mixture takes of each category.

    Args:
        model: a model in evaluation mode.
        image: (H, W, 3) uint8 RGB.
        blank: leave the image out.
        truth: (G, 2) centres x, y of the true objects in px, marked in the density; None for none.

    Returns:
        (height, width, 3) uint8 RGB.

    Raises:
        ConfigError: a model without DGQ and without REM.
    """
    tensor = torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1)))
    explained = model.explain({"image": tensor, "height": image.shape[0], "width": image.shape[1]})
    if explained.density is None and explained.routing_weights is None:
        raise ConfigError("This model has neither model.density nor model.routing: there is nothing to draw.")
    below = np.zeros_like(_fit(image)) if blank else _fit(image)
    panels = [] if blank else [_panel(below, f"image, {image.shape[1]} x {image.shape[0]} px", [])]
    scale = SIDE / max(image.shape[:2])
    if explained.density is not None:
        points = explained.reference_points.cpu().numpy() * scale
        objects = None if truth is None else truth * scale
        count = explained.num_objects or 0
        panels.append(_density_panel(below, explained.density.cpu().numpy(), count, points, objects))
    if explained.tokens is not None:
        panels.append(_token_panel(below, [level.cpu().numpy() for level in explained.tokens]))
    for level, weights in enumerate(explained.routing_weights or []):
        if level in (0, min(2, len(explained.routing_weights or []) - 1)):
            panels += _expert_panels(below, weights.cpu().numpy(), level, explained.categories)
    panels += [np.full_like(panels[0], 25)] * (-len(panels) % COLUMNS)
    return np.concatenate(
        [np.concatenate(panels[i : i + COLUMNS], axis=1) for i in range(0, len(panels), COLUMNS)], axis=0
    )


def _density_panel(
    below: np.ndarray, density: np.ndarray, count: int, points: np.ndarray, truth: np.ndarray | None
) -> np.ndarray:
    """Draw a density map over an image, with the queries' points and the true objects in px of the panel."""
    picture = draw_density(below, density, points)
    legend = [(QUERY_COLOR, f"{len(points)} queries start")]
    for x, y in [] if truth is None else truth:
        cv2.drawMarker(picture, (round(float(x)), round(float(y))), TRUE, cv2.MARKER_SQUARE, 9, 1)
    if truth is not None:
        legend.append((TRUE, f"{len(truth)} true objects"))
    return _panel(picture, f"density: {count} objects", legend)


def _token_panel(below: np.ndarray, levels: list[np.ndarray]) -> np.ndarray:
    """Draw the cells of the finest level that the encoder updates, and say the share of all levels' tokens."""
    share = sum(int(level.sum()) for level in levels) / sum(level.size for level in levels)
    colors = np.full((*levels[0].shape, 3), COLORS[0], np.float32)
    return _panel(
        blend_cells(below, colors, 0.6 * levels[0]), f"tokens: {share:.0%} updated", [(COLORS[0], "finest level")]
    )


def _expert_panels(
    below: np.ndarray, shares: np.ndarray, level: int, categories: dict[str, list[str]]
) -> list[np.ndarray]:
    """Draw each category's share of the mixture (E, H, W) in the cells of a level, in its best expert's colour."""
    panels, start = [], 0
    for category, names in categories.items():
        members = shares[start : start + len(names)]
        start += len(names)
        best, share = members.argmax(axis=0), members.sum(axis=0)
        colors = np.array(COLORS, dtype=np.float32)[best % len(COLORS)]
        legend = [(COLORS[e % len(COLORS)], f"{name} {float(members[e].mean()):.0%}") for e, name in enumerate(names)]
        picture = blend_cells(below, colors, share)
        title = f"level {level}, {category}: {share.mean():.0%} ({share.min():.0%} to {share.max():.0%})"
        panels.append(_panel(picture, title, legend))
    return panels


def main() -> int:
    """Draw the picture of one image and write it to a file."""
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


def _centres(path: Path, name: str) -> np.ndarray:
    """Return the (G, 2) centres x, y of the objects of an image in px.

    Raises:
        DatasetError: the file cannot be read, or does not contain the image.
    """
    data = read_coco_json(path)
    number = next((i["id"] for i in data["images"] if Path(i["file_name"]).name == name), None)
    if number is None:
        raise DatasetError(f"{path}: no image '{name}'.")
    annotated = [a["bbox"] for a in data["annotations"] if a["image_id"] == number and not a.get("iscrowd")]
    boxes = np.array(annotated, dtype=float).reshape(-1, 4)
    return boxes[:, :2] + boxes[:, 2:] / 2


def _draw_file(args: argparse.Namespace) -> None:
    image = read_image(args.image)
    predictor = DefaultPredictor(model_zoo.get_cfg(args.config, args.weights, args.opts))
    truth = _centres(args.truth, args.image.name) if args.truth else None
    picture = draw(predictor.model, image, blank=args.blank, truth=truth)
    args.output.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(args.output), picture[:, :, ::-1])
    print(f"Picture: {args.output}")


if __name__ == "__main__":
    raise SystemExit(main())
