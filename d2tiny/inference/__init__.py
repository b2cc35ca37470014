"""Inference on image files with a trained detector."""

from typing import TYPE_CHECKING

import lazy_loader

if TYPE_CHECKING:
    from d2tiny.inference.folder import collect_images, predict_folder

__getattr__, __dir__, _ = lazy_loader.attach(__name__, submod_attrs={"folder": ["collect_images", "predict_folder"]})
__all__ = ["collect_images", "predict_folder"]
