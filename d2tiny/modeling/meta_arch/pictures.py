"""Pictures of a training for TensorBoard, as Detectron2's ``vis_period`` asks for them."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from detectron2.data.detection_utils import convert_image_to_rgb
from detectron2.structures import Instances
from detectron2.utils import comm
from detectron2.utils.events import get_event_storage, has_event_storage
from torch import Tensor

from d2tiny.modeling.targets import split_ignored
from d2tiny.visualization import Boxes2D, draw_density, side_by_side

__all__ = ["check_period", "picture_is_due", "put_detections", "put_queries"]

_LEAST = 20  # detections that are drawn, also where there are fewer objects; Detectron2 draws as many


def check_period(owner: str, vis_period: int) -> None:
    """Refuse a period that is no number of iterations.

    Raises:
        ValueError: it is negative.
    """
    if vis_period < 0:
        raise ValueError(f"{owner}: vis_period={vis_period} must be a number of iterations, or 0 for no pictures.")


def picture_is_due(vis_period: int) -> bool:
    """Return whether this iteration gets a picture; only the main process draws, which has someone to write it.

    Args:
        vis_period: iterations between two pictures, the first of them in iteration 0; 0 for none.
    """
    if vis_period <= 0 or not has_event_storage() or not comm.is_main_process():
        return False
    return int(get_event_storage().iter) % vis_period == 0


def put_detections(batched_input: dict[str, Any], found: Instances, input_format: str) -> None:
    """Hand a picture to the event storage: the objects of an image at the left, its detections at the right.

    Args:
        batched_input: with ``image`` (3, H, W), 0 to 255, and ``instances``.
        found: with ``pred_boxes``, ``scores``, ``pred_classes``; as many of the best as there are objects are drawn,
            but at least 20.
        input_format: order of the channels of the image.
    """
    objects, _ = split_ignored(batched_input["instances"])
    count = max(_LEAST, len(objects))
    best = found[found.scores.argsort(descending=True)[:count]]
    truth = Boxes2D(_numpy(objects.gt_boxes.tensor), _numpy(objects.gt_classes))
    drawn = Boxes2D(_numpy(best.pred_boxes.tensor), _numpy(best.pred_classes), _numpy(best.scores))
    classes = [f"class {i}" for i in range(max(truth.classes.max(initial=-1), drawn.classes.max(initial=-1)) + 1)]
    picture = side_by_side(_rgb(batched_input["image"], input_format), truth, drawn, classes)
    _put("Left: ground truth; right: best detections", picture)  # the same title in every iteration


def put_queries(batched_input: dict[str, Any], points: Tensor, density: Tensor | None, input_format: str) -> None:
    """Hand a picture of where queries start to the event storage.

    Args:
        batched_input: with ``image`` (3, H, W), 0 to 255.
        points: (Q, 2) centres x, y in px.
        density: (h, w) objects per cell of the image; None draws the queries alone.
        input_format: order of the channels of the image.
    """
    values = None if density is None else _numpy(density.float())
    title = "Where queries start" + (", on the density of objects" if density is not None else "")
    _put(title, draw_density(_rgb(batched_input["image"], input_format), values, _numpy(points.float())))


def _rgb(image: Tensor, input_format: str) -> np.ndarray:
    pixels = image.permute(1, 2, 0).float().round().clamp(0, 255).to(torch.uint8)
    return np.ascontiguousarray(convert_image_to_rgb(pixels, input_format))


def _numpy(values: Tensor) -> np.ndarray:
    array: np.ndarray = values.detach().cpu().numpy()
    return array


def _put(name: str, picture: np.ndarray) -> None:
    get_event_storage().put_image(name, np.ascontiguousarray(picture.transpose(2, 0, 1)))
