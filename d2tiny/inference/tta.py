"""Test-time augmentation: what a model finds in flipped and resized views of an image, fused to one answer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from detectron2.structures import Boxes, Instances
from torch import Tensor, nn
from torch.nn import functional

from d2tiny.inference.merge_kernels import group_views
from d2tiny.utils.compiled import njit_or_python
from d2tiny.utils.errors import ConfigError

__all__ = ["TTASettings", "TestTimeAugmentation", "with_tta"]


@dataclass(frozen=True)
class TTASettings:
    """Views of an image.

    Attributes:
        scales: factors of its sides; 1.0 is the image itself.
        hflip: each scale is looked at mirrored from left to right too.
        vflip: likewise from top to bottom.
        iou: least IoU of what two views find of one object, in (0, 1).
    """

    scales: tuple[float, ...] = (1.0,)
    hflip: bool = True
    vflip: bool = False
    iou: float = 0.5

    def __post_init__(self) -> None:
        if not self.scales or not all(0.1 <= scale <= 10 for scale in self.scales) or not 0 < self.iou < 1:
            raise ConfigError(f"tta: scales must be in [0.1, 10] and iou in (0, 1), got {self.scales} and {self.iou}.")

    @property
    def views(self) -> list[tuple[float, bool, bool]]:
        """Scale, and whether it is mirrored horizontally and vertically, of each view."""
        flips = [(h, v) for v in (False, True)[: 1 + self.vflip] for h in (False, True)[: 1 + self.hflip]]
        return [(scale, h, v) for scale in self.scales for h, v in flips]


class TestTimeAugmentation(nn.Module):
    """A detector that looks at several views of each image.

    Views are fused as by weighted boxes fusion (Solovyev et al., 2021): boxes of one class that agree, the best pairs
    first and at most one of each view, become one with the mean box, weighted by scores; its score is the mean over all
    views, also those that found nothing.
    """

    __test__ = False  # not a test class of pytest

    def __init__(
        self, model: nn.Module, settings: TTASettings | None = None, max_detections: int | None = None
    ) -> None:
        """Wrap a model.

        Args:
            model: with the contract of Detectron2's models: a list of dicts in, in evaluation a list of dicts with
                ``instances`` out.
            settings: views and fusion.
            max_detections: most objects of an image; None for as many as one view may have.
        """
        super().__init__()
        self.model, self.settings, self.max_detections = model, settings or TTASettings(), max_detections

    def forward(self, batched_inputs: Sequence[dict[str, Any]]) -> list[dict[str, Instances]]:
        """Return the fused instances of each image, in px of its ``height`` and ``width``.

        Args:
            batched_inputs: dicts with ``image`` (C, H, W), and ``height``, ``width`` in px of the answer.
        """
        found: list[list[Instances]] = [[] for _ in batched_inputs]
        for scale, h, v in self.settings.views:
            inputs = [self._view(one, scale, h, v) for one in batched_inputs]
            for i, output in enumerate(self.model(inputs)):
                found[i].append(_turned_back(output["instances"].to("cpu"), h, v))
        device = batched_inputs[0]["image"].device if batched_inputs else "cpu"
        return [{"instances": self._fused(views).to(device)} for views in found]

    def _view(self, one: dict[str, Any], scale: float, h: bool, v: bool) -> dict[str, Any]:
        image: Tensor = one["image"]
        size = {"height": one.get("height", image.shape[1]), "width": one.get("width", image.shape[2])}
        if scale != 1.0:
            new = [max(1, round(side * scale)) for side in image.shape[1:]]
            resized = functional.interpolate(image[None].float(), new, mode="bilinear", antialias=scale < 1)
            image = resized[0].to(image.dtype) if image.dtype.is_floating_point else resized[0].round().to(image.dtype)
        dims = [d for d, flipped in ((2, h), (1, v)) if flipped]
        return {**one, **size, "image": image.flip(dims) if dims else image}

    def _fused(self, views: list[Instances]) -> Instances:
        counts = [len(view) for view in views]
        boxes = torch.cat([view.pred_boxes.tensor for view in views]).double().numpy()
        scores = torch.cat([view.scores for view in views]).float().numpy()
        classes = torch.cat([view.pred_classes for view in views]).numpy()
        height, width = views[0].image_size
        window = np.tile(np.array([0.0, 0.0, width, height]), (len(views), 1))
        number = np.arange(len(boxes))
        group, following = number.copy(), number.copy()
        # Classes lie apart, so that only boxes of one are fused.
        apart = boxes + (classes * (4.0 * (width + height)))[:, None]
        windows = np.concatenate([window + c * 4.0 * (width + height) for c in range(int(classes.max(initial=0)) + 1)])
        tiles = np.repeat(np.arange(len(views)), counts) + classes * len(views)
        group_views(apart, classes, tiles, windows, group, following, 0, self.settings.iou, 0.0)
        fused, mean, leader = _fuse(boxes, scores, following, len(views))
        order = np.argsort(-mean, kind="stable")[: self.max_detections or max(counts, default=0)]
        result = Instances(views[0].image_size)
        result.pred_boxes = Boxes(torch.from_numpy(fused[order]).float())
        result.scores = torch.from_numpy(mean[order])
        result.pred_classes = torch.from_numpy(classes[leader[order]])
        return result


def with_tta(model: nn.Module, settings: Mapping[str, Any] | None) -> nn.Module:
    """Return a model with the test-time augmentation that ``train.tta`` of a config asks for, or the model itself.

    Raises:
        ConfigError: settings outside their range, or of other names.
    """
    options = dict(settings or {})
    if not options.pop("enabled", False):
        return model
    try:
        tta = TTASettings(**{**options, "scales": tuple(options.get("scales", (1.0,)))})
    except TypeError as err:
        raise ConfigError(f"train.tta: {err}.") from err
    return TestTimeAugmentation(model, tta).train(model.training)


def _turned_back(instances: Instances, h: bool, v: bool) -> Instances:
    """Return instances of a mirrored view in px of the image."""
    height, width = instances.image_size
    x1, y1, x2, y2 = instances.pred_boxes.tensor.unbind(1)
    if h:
        x1, x2 = width - x2, width - x1
    if v:
        y1, y2 = height - y2, height - y1
    instances.pred_boxes = Boxes(torch.stack((x1, y1, x2, y2), dim=1))
    return instances


@njit_or_python(cache=True)
def _fuse(
    boxes: np.ndarray, scores: np.ndarray, following: np.ndarray, views: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the weighted mean box (K, 4), the mean score (K,) and the first member (K,) of each group."""
    seen = np.zeros(len(boxes), np.bool_)
    fused, mean, leader = np.empty((len(boxes), 4)), np.empty(len(boxes), np.float32), np.empty(len(boxes), np.int64)
    n = 0
    for i in range(len(boxes)):
        if seen[i]:
            continue
        total, weights, v = np.zeros(4), 0.0, i
        while True:
            seen[v] = True
            weight = np.float64(scores[v])
            total += weight * boxes[v]
            weights += weight
            v = following[v]
            if v == i:
                break
        fused[n] = total / weights if weights > 0 else boxes[i]
        mean[n], leader[n] = weights / views, i
        n += 1
    return fused[:n], mean[:n], leader[:n]
