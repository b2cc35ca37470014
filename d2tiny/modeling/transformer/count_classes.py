"""Classes of the number of objects, by which DQ-DETR chooses the number of its queries (Huang et al., ECCV 2024)."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from d2tiny.layers.padding import masked_mean

__all__ = ["DEFAULT_THRESHOLDS", "CountClassifier"]

# numbers of objects from which on the next class begins: few, some, many, very many
DEFAULT_THRESHOLDS = (10, 100, 500)
_LEAST_RATE = 0.02  # of the running means, after the plain mean of 50 images


class CountClassifier(nn.Module):
    """Classifies the number of objects from the finest level: dilated convolutions, global mean, linear layer.

    The expected number of an image is the mean of the classes' mean numbers in training, weighted by their
    probabilities, so that it can be compared with a number that is not classified.

    Differences from the paper: it takes the largest class of the batch, so that an image's result depends on its batch
    mates; here each image has its own.
    """

    mean_counts: Tensor
    seen: Tensor

    def __init__(
        self, *, embed_dim: int = 256, hidden_dim: int = 512, thresholds: Sequence[float] = DEFAULT_THRESHOLDS
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
        self.register_buffer("seen", torch.zeros(len(edges), dtype=torch.int64))

    def forward(self, finest: Tensor, padding: Tensor | None) -> Tensor:
        """Return (B, classes) logits of (B, C, H, W); ``padding`` (B, 1, H, W) is left out of the mean."""
        x = finest if padding is None else finest.masked_fill(padding, 0.0)
        for layer in self.layers:
            x = layer(x)
            x = x if padding is None else x.masked_fill(padding, 0.0)  # it must not reach the cells next to it
        logits: Tensor = self.linear(masked_mean(x.float(), padding).flatten(1))
        return logits.float()

    def class_of(self, count: float) -> int:
        """Return the class of a number of objects."""
        return sum(count >= t for t in self.thresholds)

    def expected_count(self, logits: Tensor) -> Tensor:
        """Return the expected number of objects of each image, (B,)."""
        return (logits.float().softmax(dim=1) * self.mean_counts).sum(dim=1)

    def loss(self, logits: Tensor, counts: Sequence[float]) -> Tensor:
        """Return the cross-entropy of the classes, and update the classes' mean numbers in training.

        Each process has the means of its own images; checkpoints keep those of the first.
        """
        classes = [self.class_of(count) for count in counts]
        if self.training:
            with torch.no_grad():
                for label, count in zip(classes, counts, strict=True):
                    self.seen[label] += 1
                    rate = (1.0 / self.seen[label]).clamp(min=_LEAST_RATE)
                    self.mean_counts[label] += rate * (count - self.mean_counts[label])
        return F.cross_entropy(logits, torch.tensor(classes, device=logits.device))
