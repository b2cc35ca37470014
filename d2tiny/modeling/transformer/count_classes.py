"""Classes of the number of objects, by which DQ-DETR chooses the number of its queries (Huang et al., ECCV 2024)."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

__all__ = ["CountClassifier"]

_MOMENTUM = 0.98


class CountClassifier(nn.Module):
    """Classifies the number of objects from the finest level: dilated convolutions, global mean, linear layer.

    The expected number of an image is the mean of the classes' mean numbers in training, weighted by their
    probabilities, so that it can be compared with a number that is not classified.

    Differences from the paper: it takes the largest class of the batch, so that an image's result depends on its batch
    mates; here each image has its own.
    """

    mean_counts: Tensor

    def __init__(
        self, *, embed_dim: int = 256, hidden_dim: int = 512, thresholds: Sequence[float] = (10, 100, 500)
    ) -> None:
        """Build the layers.

        Args:
            embed_dim: C, channels of the finest level.
            hidden_dim: channels of the first four convolutions, twice those of the last three.
            thresholds: numbers of objects from which on the next class begins.
        """
        super().__init__()
        self.thresholds = list(thresholds)
        widths = [hidden_dim] * 4 + [hidden_dim // 2] * 3
        layers: list[nn.Module] = [nn.Conv2d(embed_dim, widths[0], 1), nn.ReLU(inplace=True)]
        for inputs, outputs in itertools.pairwise(widths):
            layers += [nn.Conv2d(inputs, outputs, 3, padding=2, dilation=2), nn.ReLU(inplace=True)]
        self.layers = nn.Sequential(*layers)
        self.linear = nn.Linear(widths[-1], len(self.thresholds) + 1)
        edges = [0.0, *self.thresholds]
        self.register_buffer("mean_counts", torch.tensor(edges))

    def forward(self, finest: Tensor, padding: Tensor | None) -> Tensor:
        """Return (B, classes) logits of (B, C, H, W); ``padding`` (B, 1, H, W) is left out of the mean."""
        x = self.layers(finest if padding is None else finest.masked_fill(padding, 0.0)).float()
        if padding is None:
            return self.linear(x.mean(dim=(2, 3)))
        inside = (~padding).float()
        return self.linear((x * inside).sum(dim=(2, 3)) / inside.sum(dim=(2, 3)).clamp(min=1))

    def class_of(self, counts: Sequence[float]) -> Tensor:
        """Return the classes of numbers of objects."""
        classes = [sum(count >= t for t in self.thresholds) for count in counts]
        return torch.tensor(classes, device=self.linear.weight.device)

    def expected_count(self, logits: Tensor) -> Tensor:
        """Return the expected number of objects of each image, (B,)."""
        return logits.softmax(dim=1) @ self.mean_counts

    def loss(self, logits: Tensor, counts: Sequence[float]) -> Tensor:
        """Return the cross-entropy of the classes, and update the classes' mean numbers in training."""
        classes = self.class_of(counts)
        if self.training:
            with torch.no_grad():
                for label, count in zip(classes.tolist(), counts, strict=True):
                    self.mean_counts[label] += (1 - _MOMENTUM) * (count - self.mean_counts[label])
        return F.cross_entropy(logits, classes)
