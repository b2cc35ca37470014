"""Contrastive denoising of DINO: ground truths with noise as extra queries of training."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from d2tiny.layers.position import inverse_sigmoid
from d2tiny.ops.boxes import cxcywh_to_xyxy, xyxy_to_cxcywh

__all__ = ["Denoising", "DenoisingQueries"]


@dataclass(frozen=True)
class DenoisingQueries:
    """Noisy ground truths of a batch, before the matching queries.

    Attributes:
        content: (B, N, C) embedded labels.
        reference: (B, N, 4) logits of the noisy boxes.
        blocked: (N + K, N + K) boolean, True where a query (row) must not look at another (column).
        image: (P,) image of each positive.
        query: (P,) its place among the N.
        gt: (P,) its ground truth in the image.
        groups: number of groups.
    """

    content: Tensor
    reference: Tensor
    blocked: Tensor
    image: Tensor
    query: Tensor
    gt: Tensor
    groups: int


class Denoising(nn.Module):
    """Makes groups of one positive and one negative for each ground truth.

    A label is exchanged for any class with probability ``label_noise / 2``. Corners move by up to half a side × scale,
    negatives by one to two times that. There are as many groups as fit into ``number`` positives, at least one.
    """

    def __init__(
        self,
        *,
        num_classes: int,
        channels: int,
        number: int = 100,
        label_noise: float = 0.5,
        box_noise: float = 1.0,
        max_gts: int = 500,
    ) -> None:
        """Set the noise.

        Args:
            num_classes: C of the labels.
            channels: of the queries.
            number: positives of all groups; 0 switches denoising off.
            label_noise: twice the probability of another label.
            box_noise: scale (1 in all released launch scripts, 0.4 in the config files).
            max_gts: of images with more objects, a random choice is denoised, so that memory stays bounded.

        Raises:
            ValueError: a setting outside its range.
        """
        super().__init__()
        if number < 0 or not 0 <= label_noise <= 2 or box_noise < 0 or max_gts < 1:
            raise ValueError(
                f"Denoising: bad number {number}, label_noise {label_noise}, box_noise {box_noise}, max_gts {max_gts}."
            )
        self.number, self.label_noise, self.box_noise, self.max_gts = number, label_noise, box_noise, max_gts
        self.num_classes = num_classes
        self.labels = nn.Embedding(num_classes, channels)

    def groups(self, largest: int) -> tuple[int, int]:
        """Groups and queries for images of at most so many ground truths: (0, 0) without any."""
        if not largest or not self.number:
            return 0, 0
        count = max(1, self.number // largest)
        return count, 2 * largest * count

    def forward(self, classes: Sequence[Tensor], boxes: Sequence[Tensor], queries: int) -> DenoisingQueries | None:
        """Make the queries of a batch.

        Args:
            classes: (G,) of each image.
            boxes: (G, 4) cx, cy, w, h in [0, 1] of each image.
            queries: K, number of matching queries behind them.

        Returns:
            None where there is nothing to denoise.
        """
        kept = [self._some(len(c), c.device) for c in classes]
        largest = max((len(k) for k in kept), default=0)
        groups, total = self.groups(largest)
        if not groups:
            return None
        device = self.labels.weight.device
        content = torch.zeros(len(classes), total, self.labels.embedding_dim, device=device)
        reference = torch.zeros(len(classes), total, 4, device=device)
        found: list[tuple[Tensor, Tensor, Tensor]] = []
        for i, keep in enumerate(kept):
            count = len(keep)
            if not count:
                continue
            # in a group first all positives, then all negatives, each in ``largest`` places
            place = torch.arange(count, device=device)
            start = torch.arange(groups, device=device)[:, None] * 2 * largest
            positive, negative = (start + place).flatten(), (start + largest + place).flatten()
            where = torch.cat((positive, negative))
            label, box = classes[i][keep].repeat(2 * groups), boxes[i][keep].float().repeat(2 * groups, 1)
            noise = self._noisy(box, len(positive))
            content[i, where] = self.labels(self._flipped(label)).to(content.dtype)
            reference[i, where] = inverse_sigmoid(noise)
            found.append((torch.full_like(positive, i), positive, keep.repeat(groups)))
        image, query, gt = (torch.cat(parts) for parts in zip(*found, strict=True))
        return DenoisingQueries(
            content, reference, self._mask(groups, largest, total, queries, device), image, query, gt, groups
        )

    def _some(self, count: int, device: torch.device) -> Tensor:
        """Which ground truths are denoised."""
        if count <= self.max_gts:
            return torch.arange(count, device=device)
        return torch.randperm(count, device=device)[: self.max_gts].sort().values

    def _flipped(self, labels: Tensor) -> Tensor:
        flip = torch.rand(len(labels), device=labels.device) < self.label_noise / 2
        return torch.where(flip, torch.randint_like(labels, self.num_classes), labels)

    def _noisy(self, boxes: Tensor, positives: int) -> Tensor:
        """Boxes (N, 4), the first ``positives`` with little noise, the others with more; cx, cy, w, h."""
        share = torch.rand_like(boxes)
        share[positives:] += 1
        sign = torch.randint_like(boxes, 2) * 2 - 1
        half = (boxes[:, 2:] / 2).repeat(1, 2)
        corners = cxcywh_to_xyxy(boxes) + sign * share * half * self.box_noise
        return xyxy_to_cxcywh(corners.clamp(0, 1))

    @staticmethod
    def _mask(groups: int, largest: int, total: int, queries: int, device: torch.device) -> Tensor:
        """Matching queries see no noisy ones, and groups do not see one another."""
        owner = torch.cat(
            (
                torch.arange(total, device=device) // (2 * largest),
                torch.full((queries,), groups, device=device),
            )
        )
        seen_by = owner[:, None]
        return (owner[None, :] < groups) & (owner[None, :] != seen_by)
