"""Drawing of boxes such that objects of 8 px stay visible."""

from __future__ import annotations

import colorsys
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from d2tiny.utils.pictures import draw_outline, enlarge

__all__ = ["Boxes2D", "class_color", "draw_boxes", "side_by_side"]

# Bright, distinct colours, visible on vegetation, asphalt and water, in the order of AI-TOD's classes.
_PALETTE: tuple[tuple[int, int, int], ...] = (
    (255, 90, 80),
    (255, 170, 0),
    (190, 120, 255),
    (0, 200, 255),
    (255, 110, 200),
    (255, 235, 60),
    (90, 255, 110),
    (255, 255, 255),
)
_BACKGROUND_COLOR = (24, 26, 30)
_TEXT_COLOR = (245, 245, 245)
# Images are enlarged until their longer side has about this many px; they are never shrunk.
_TARGET_SIDE = 1200
_BLOCK = 1 << 13  # boxes that are lists of numbers at once


@dataclass(frozen=True)
class Boxes2D:
    """Boxes to draw.

    Attributes:
        boxes: (N, 4) XYXY in px.
        classes: (N,) class indices.
        scores: (N,) scores, or None for ground truth.
    """

    boxes: np.ndarray
    classes: np.ndarray
    scores: np.ndarray | None = None


def class_color(index: int) -> tuple[int, int, int]:
    """Return the RGB colour of a class index, the same in every picture."""
    if index < len(_PALETTE):
        return _PALETTE[index]
    red, green, blue = colorsys.hsv_to_rgb((index * 0.618034) % 1.0, 0.65, 1.0)
    return int(red * 255), int(green * 255), int(blue * 255)


def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size)


def _scale(height: int, width: int) -> int:
    return max(1, min(6, round(_TARGET_SIDE / max(height, width))))


def draw_boxes(
    image: np.ndarray, items: Boxes2D, class_names: Sequence[str], *, title: str = "", scale: int = 0
) -> np.ndarray:
    """Draw boxes with lines of one pixel on an enlarged copy of an image, with a legend below.

    Args:
        image: (H, W, 3) uint8 RGB; it is not modified.
        items: the boxes.
        class_names: class names for the legend, which lists the classes that occur with their counts.
        title: text before the legend.
        scale: integer enlargement; 0 chooses one by the size of the image.

    Returns:
        (H·scale + height of the legend, W·scale, 3) uint8 RGB.
    """
    scale = scale or _scale(*image.shape[:2])
    canvas = enlarge(image, scale)
    del image  # a large one that the caller does not keep
    # By ascending score, so that boxes of high score are on top.
    order = np.arange(len(items.boxes)) if items.scores is None else np.argsort(items.scores)
    colors = {index: class_color(index) for index in np.unique(items.classes).astype(int).tolist()}
    for start in range(0, len(order), _BLOCK):
        block = order[start : start + _BLOCK]
        corners = np.round(items.boxes[block] * scale).astype(int).tolist()
        for (x1, y1, x2, y2), index in zip(corners, items.classes[block].tolist(), strict=True):
            # One pixel outside the object on each side, so that its edge stays visible.
            draw_outline(canvas, (x1 - 1, y1 - 1, x2, y2), colors[int(index)])
    return np.concatenate((canvas, _legend(canvas.shape[1], items, class_names, title)))


def _legend(width: int, items: Boxes2D, class_names: Sequence[str], title: str) -> np.ndarray:
    """Return an image strip with the title and an entry for each class that occurs, in as many lines as needed."""
    size = max(15, width // 90)  # legible when a large image is shown in full
    pad = size // 2
    font = _font(size)
    counts = np.bincount(items.classes.astype(np.int64), minlength=len(class_names))
    entries: list[tuple[str, tuple[int, int, int] | None]] = [(title, None)] if title else []
    entries += [
        (f"{class_names[i] if i < len(class_names) else i} {counts[i]}", class_color(i))
        for i in np.flatnonzero(counts).tolist()
    ]
    if not counts.any():
        entries.append(("no objects", None))
    layout, x, y = [], pad, pad
    for text, color in entries:
        length = int(font.getlength(text)) + (size + 4 if color else 0)
        if x > pad and x + length > width - pad:
            x, y = pad, y + size + pad
        layout.append((x, y, text, color))
        x += length + 2 * pad
    strip = Image.new("RGB", (width, y + size + pad + 2), _BACKGROUND_COLOR)
    pen = ImageDraw.Draw(strip)
    for x, y, text, color in layout:
        if color:
            pen.rectangle((x, y + 2, x + size - 4, y + size - 2), outline=color, width=2)
            x += size + 4
        pen.text((x, y - 1), text, fill=_TEXT_COLOR, font=font)
    return np.asarray(strip)


def side_by_side(
    image: np.ndarray, ground_truth: Boxes2D, predictions: Boxes2D, class_names: Sequence[str], *, name: str = ""
) -> np.ndarray:
    """Draw ground truth at the left and predictions at the right.

    Args:
        image: (H, W, 3) uint8 RGB; it is not modified.
        ground_truth: boxes of the left picture.
        predictions: boxes of the right picture.
        class_names: class names for the legends.
        name: name of the image for the title of the left picture.

    Returns:
        (H', W', 3) uint8 RGB.
    """
    scale = max(1, _scale(*image.shape[:2]) * 2 // 3)
    panels = [
        draw_boxes(image, items, class_names, title=title, scale=scale)
        for title, items in ((f"ground truth {name}".strip(), ground_truth), ("prediction", predictions))
    ]
    height = max(p.shape[0] for p in panels)
    gap = np.full((height, 6, 3), 255, dtype=np.uint8)
    padded = [
        np.concatenate((p, np.full((height - p.shape[0], p.shape[1], 3), _BACKGROUND_COLOR, dtype=np.uint8)))
        for p in panels
    ]
    return np.concatenate((padded[0], gap, padded[1]), axis=1)
