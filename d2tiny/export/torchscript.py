"""Detectors as TorchScript, for programs with PyTorch but without d2tiny and Detectron2."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from d2tiny.export.graph import Detections, DetectorGraph
from d2tiny.export.recipe import Recipe
from d2tiny.runtime.detections import ArrayDetections
from d2tiny.runtime.metadata import KEY, ModelMetadata
from d2tiny.runtime.resize import Resize, resized

__all__ = ["TorchScriptDetector", "trace_detector", "write_torchscript"]


class _WithPreprocessing(nn.Module):
    pixel_mean: Tensor
    pixel_std: Tensor

    def __init__(self, recipe: Recipe) -> None:
        super().__init__()
        self.graph: DetectorGraph = recipe.graph
        self.flip, self.divisor = recipe.flip, recipe.divisor
        self.register_buffer("pixel_mean", torch.tensor(recipe.pixel_mean).view(-1, 1, 1))
        self.register_buffer("pixel_std", torch.tensor(recipe.pixel_std).view(-1, 1, 1))

    def forward(self, images: Tensor) -> Detections:
        size = torch._shape_as_tensor(images)[1:3]
        x = (images.flip(3) if self.flip else images).permute(0, 3, 1, 2).float()
        x = (x - self.pixel_mean) / self.pixel_std
        if self.divisor > 1:
            rows, columns = (-x.shape[dim] % self.divisor for dim in (2, 3))
            x = F.pad(x, (0, columns, 0, rows))
        detections: Detections = self.graph(x, size)
        return detections


def trace_detector(recipe: Recipe) -> torch.jit.ScriptModule:
    """Return a detector from uint8 images to detections as TorchScript."""
    example = torch.randint(0, 256, (2, 150, 210, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        traced = torch.jit.trace(_WithPreprocessing(recipe).eval(), (example,), check_trace=False)
    assert isinstance(traced, torch.jit.ScriptModule)
    return traced


def write_torchscript(model: torch.jit.ScriptModule, metadata: ModelMetadata, path: Path) -> None:
    """Write a model in one file; its metadata is the extra file ``d2tiny``."""
    torch.jit.save(model, str(path), _extra_files={KEY: metadata.to_json()})


class TorchScriptDetector:
    """A TorchScript file that finds objects in images of one size, as exported models do."""

    def __init__(self, path: Path) -> None:
        """Load a file of :func:`write_torchscript`."""
        extra = {KEY: ""}
        self._model = torch.jit.load(str(path), _extra_files=extra)
        self.metadata = ModelMetadata.from_json(extra[KEY])

    @torch.no_grad()
    def detect(self, images: Sequence[np.ndarray], tile: None) -> list[ArrayDetections]:
        """Return what is in images (h, w, 3) uint8 RGB of one size, in px of them."""
        resize = Resize.from_dict(self.metadata.resize)
        height, width = size = images[0].shape[:2]
        size = size if resize is None else resize.size(height, width)
        ordered = [image if self.metadata.channels == "RGB" else image[:, :, ::-1] for image in images]
        batch = np.stack([np.ascontiguousarray(i) if resize is None else resized(i, size) for i in ordered])
        boxes, scores, classes, counts = self._model(torch.from_numpy(batch))
        found = [
            ArrayDetections(boxes[i, :n].numpy(), scores[i, :n].numpy(), classes[i, :n].numpy().astype(np.int32))
            for i, n in enumerate(counts.tolist())
        ]
        return [one.scaled(size, (height, width)) for one in found]
