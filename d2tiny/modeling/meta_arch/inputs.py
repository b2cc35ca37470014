"""What detectors accept as an image: the one check of arrays for a predictor and of tensors for a model."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from d2tiny.utils.errors import ImageError
from d2tiny.utils.image_arrays import SCALE_ADVICE, require_array, shape_advice

__all__ = ["check_predictor_input", "require_array", "require_batch"]


def num_channels(model: nn.Module) -> int:
    """Return C, the number of channels that a model normalises; 3 where it does not say."""
    mean = getattr(model, "pixel_mean", None)
    return mean.numel() if isinstance(mean, Tensor) else 3


def require_batch(model: nn.Module, batched_inputs: list[dict[str, Any]]) -> None:
    """Refuse inputs of a model unless each ``image`` is a tensor (C, H, W), uint8 or floating, of 0 to 255.

    Raises:
        ImageError: another type, shape or number type; says what to do.
    """
    for number, item in enumerate(batched_inputs):
        image, channels = item["image"], num_channels(model)
        wanted = f"batched_inputs[{number}]['image'] must be a tensor ({channels}, H, W), uint8 or floating of 0 to 255"
        if not isinstance(image, Tensor):
            raise ImageError(f"{wanted}, got {type(image).__name__}. Use torch.as_tensor(array.transpose(2, 0, 1)).")
        shape = tuple(image.shape)
        if image.dim() != 3 or shape[0] != channels:
            raise ImageError(f"{wanted}, got shape {shape}. {shape_advice(shape, channels, last=False)}")
        if not image.numel():
            raise ImageError(f"{wanted}, got shape {shape}, which has no pixel.")
        if image.dtype != torch.uint8 and not image.is_floating_point():
            raise ImageError(f"{wanted}, got {image.dtype}. {SCALE_ADVICE}")


def check_predictor_input(
    predict: Callable[..., Any], predictor: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> Any:
    """Check the image, then call Detectron2's ``DefaultPredictor``; other projects' predictors are not checked.

    Args:
        predict: the predictor's bound method.
        predictor: the predictor.
        args: of the call.
        kwargs: of the call.
    """
    if "D2TINY" in predictor.cfg:
        require_array((*args, *kwargs.values())[0] if args or kwargs else None, num_channels(predictor.model))
    return predict(*args, **kwargs)
