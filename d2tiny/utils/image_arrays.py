"""What detectors accept as an image, for numpy arrays; nothing heavy is imported."""

from __future__ import annotations

import numpy as np

from d2tiny.utils.errors import ImageError

__all__ = ["SCALE_ADVICE", "require_array", "shape_advice"]

SCALE_ADVICE = "Scale the values to 0 to 255 first, as in training, and convert them to uint8."


def require_array(image: object, channels: int = 3) -> None:
    """Refuse an image for a predictor unless it is a numpy array (H, W, C), uint8 or floating, of 0 to 255.

    Args:
        image: what was given.
        channels: C.

    Raises:
        ImageError: anything else; says what to do.
    """
    order = " in BGR order" if channels == 3 else ""
    wanted = f"The image must be a numpy array (height, width, {channels}){order}, uint8 or floating of 0 to 255"
    if image is None:
        raise ImageError(f"{wanted}, got None. cv2.imread returns None for a file that is missing or no image.")
    if not isinstance(image, np.ndarray):
        raise ImageError(f"{wanted}, got {type(image).__name__}. Convert it with numpy.asarray; PIL's order is RGB.")
    if image.ndim != 3 or image.shape[2] != channels:
        raise ImageError(f"{wanted}, got shape {image.shape}. {shape_advice(image.shape, channels, last=True)}")
    if not image.size:
        raise ImageError(f"{wanted}, got shape {image.shape}, which has no pixel.")
    _require_values(image, wanted)


def _require_values(image: np.ndarray, wanted: str) -> None:
    """Refuse number types and ranges that would be understood as other grey values."""
    if image.dtype == np.uint8:
        return
    if not np.issubdtype(image.dtype, np.floating):
        raise ImageError(f"{wanted}, got {image.dtype} with values up to {image.max()}. {SCALE_ADVICE}")
    low, high = float(image.min()), float(image.max())
    if not 0 <= low <= high <= 255:  # also with NaN
        raise ImageError(f"{wanted}, got {image.dtype} with values from {low:g} to {high:g}. {SCALE_ADVICE}")
    if 0 < high <= 1:
        raise ImageError(f"{wanted}, got {image.dtype} with values of at most {high:g}. Multiply by 255 if 1 is white.")


def shape_advice(shape: tuple[int, ...], channels: int, *, last: bool) -> str:
    """Return how to convert an array (``last``: the channels come last) or a tensor of another shape."""
    if len(shape) == 2:
        return "Repeat a grey image: " + (
            f"numpy.dstack([image] * {channels})." if last else f"image.expand({channels}, -1, -1)."
        )
    if len(shape) == 4 and shape[0] == 1:
        return "Give it without the axis of the batch: image[0]."
    if len(shape) != 3:
        return "One image at a time."
    here, there = (shape[2], shape[0]) if last else (shape[0], shape[2])
    if there == channels:
        return "Exchange the axes: " + ("image.transpose(1, 2, 0)." if last else "image.permute(2, 0, 1).")
    if here == 1:
        return "Repeat a grey image: " + (
            f"image.repeat({channels}, axis=2)." if last else f"image.expand({channels}, -1, -1)."
        )
    if here == channels + 1:
        return "Leave out the alpha channel: " + (f"image[:, :, :{channels}]." if last else f"image[:{channels}].")
    return f"Choose the {channels} channels that the model was trained with."
