"""Contrastive denoising of DINO (section 3.3 of the paper): objects with noise as additional queries in training."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from d2tiny.modeling.contracts import MatchIndices, Targets
from d2tiny.ops.boxes import cxcywh_to_xyxy, xyxy_to_cxcywh

__all__ = ["Denoising", "DenoisingQueries"]

_MIN_SHARE = 1e-5  # of the image; the noise of negatives may turn a box inside out


@dataclass(frozen=True)
class DenoisingQueries:
    """Denoising queries of a batch, N for each image; in the decoder they precede the Q matching queries.

    Attributes:
        content: (B, N, C) embeddings of the noisy labels; zero in unused slots of images with few objects.
        reference_boxes: (B, N, 4) the noisy boxes cx, cy, w, h in shares of the image; 0.5 in unused slots.
        attn_mask: (N + Q, N + Q) boolean, True where a query (row) must not attend to another (column).
        indices: the positive queries and their objects.
        num_groups: number of groups.
    """

    content: Tensor
    reference_boxes: Tensor
    attn_mask: Tensor
    indices: MatchIndices
    num_groups: int


class Denoising(nn.Module):
    """Makes groups of one positive and one negative query for each object.

    Labels are replaced by a random class with probability ``label_noise_ratio / 2``. Each corner of a positive's box
    moves by up to ``box_noise_scale`` times half a side, that of a negative by one to two times as much. There are as
    many groups as fit into ``num_denoising`` positives, at least one.
    """

    def __init__(
        self,
        *,
        num_classes: int,
        embed_dim: int,
        num_denoising: int = 100,
        label_noise_ratio: float = 0.5,
        box_noise_scale: float = 1.0,
        max_gts: int = 500,
    ) -> None:
        """Set the noise.

        Args:
            num_classes: K of the labels.
            embed_dim: C, channels of the queries.
            num_denoising: positives of all groups together; 0 switches denoising off.
            label_noise_ratio: twice the probability that a label is replaced, in [0, 2].
            box_noise_scale: scale of the noise on boxes; 1.0 in all released launch scripts, 0.4 in the config files.
            max_gts: with more objects in an image, a random choice of so many is denoised, which bounds the memory.

        Raises:
            ValueError: a setting outside its range.
        """
        super().__init__()
        if num_denoising < 0 or not 0 <= label_noise_ratio <= 2 or box_noise_scale < 0 or max_gts < 1:
            raise ValueError(
                "Denoising: need num_denoising >= 0, label_noise_ratio in [0, 2], box_noise_scale >= 0 and max_gts "
                f">= 1, got {num_denoising}, {label_noise_ratio}, {box_noise_scale}, {max_gts}."
            )
        self.num_denoising, self.max_gts = num_denoising, max_gts
        self.label_noise_ratio, self.box_noise_scale = label_noise_ratio, box_noise_scale
        self.num_classes = num_classes
        self.label_embedding = nn.Embedding(num_classes, embed_dim)

    def group_layout(self, group_size: int) -> tuple[int, int]:
        """Return number of groups and of queries for images of at most ``group_size`` objects; (0, 0) without any."""
        if not group_size or not self.num_denoising:
            return 0, 0
        num_groups = max(1, self.num_denoising // group_size)
        return num_groups, 2 * group_size * num_groups

    def forward(self, targets: Targets, num_queries: int) -> DenoisingQueries | None:
        """Make the denoising queries of a batch.

        Args:
            targets: objects of the B images.
            num_queries: Q, number of matching queries that follow.

        Returns:
            The queries, or None if there is no object or denoising is off.
        """
        kept = [self._sample(len(labels), labels.device) for labels in targets.labels]
        group_size = max((len(k) for k in kept), default=0)
        num_groups, total = self.group_layout(group_size)
        if not num_groups:
            return None
        device = self.label_embedding.weight.device
        content = torch.zeros(len(kept), total, self.label_embedding.embedding_dim, device=device)
        reference_boxes = torch.full((len(kept), total, 4), 0.5, device=device)
        pairs: list[tuple[Tensor, Tensor, Tensor]] = []
        for i, keep in enumerate(kept):
            if not len(keep):
                continue
            positive, negative = _slots(len(keep), group_size, num_groups, device)
            slots = torch.cat((positive, negative))
            labels = targets.labels[i][keep].repeat(2 * num_groups)
            boxes = targets.boxes[i][keep].float().repeat(2 * num_groups, 1)
            noisy = self._noisy_boxes(boxes, len(positive))
            content[i, slots] = self.label_embedding(self._noisy_labels(labels)).to(content.dtype)
            reference_boxes[i, slots] = noisy.clamp(_MIN_SHARE, 1 - _MIN_SHARE)
            pairs.append((torch.full_like(positive, i), positive, keep.repeat(num_groups)))
        indices = MatchIndices(*(torch.cat(parts) for parts in zip(*pairs, strict=True)))
        attn_mask = self._attn_mask(num_groups, group_size, num_queries, device)
        return DenoisingQueries(content, reference_boxes, attn_mask, indices, num_groups)

    def _sample(self, count: int, device: torch.device) -> Tensor:
        """Return the indices of the objects of an image that are denoised."""
        if count <= self.max_gts:
            return torch.arange(count, device=device)
        return torch.randperm(count, device=device)[: self.max_gts].sort().values

    def _noisy_labels(self, labels: Tensor) -> Tensor:
        flip = torch.rand(len(labels), device=labels.device) < self.label_noise_ratio / 2
        return torch.where(flip, torch.randint_like(labels, self.num_classes), labels)

    def _noisy_boxes(self, boxes: Tensor, num_positives: int) -> Tensor:
        """Add noise to boxes (N, 4) cx, cy, w, h, the first of which are positives, the others negatives."""
        amount = torch.rand_like(boxes)
        amount[num_positives:] += 1
        sign = torch.randint_like(boxes, 2) * 2 - 1
        half_sides = (boxes[:, 2:] / 2).repeat(1, 2)
        corners = cxcywh_to_xyxy(boxes) + sign * amount * half_sides * self.box_noise_scale
        return xyxy_to_cxcywh(corners.clamp(0, 1))

    @staticmethod
    def _attn_mask(num_groups: int, group_size: int, num_queries: int, device: torch.device) -> Tensor:
        """Hide the groups from one another and from the matching queries, which all groups may attend to."""
        total = 2 * group_size * num_groups
        group = torch.cat(
            (
                torch.arange(total, device=device) // (2 * group_size),
                torch.full((num_queries,), num_groups, device=device),
            )
        )
        return (group[None, :] < num_groups) & (group[None, :] != group[:, None])


def _slots(count: int, group_size: int, num_groups: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Return the slots of an image's positives and negatives; a group has all its positives first, then its negatives.

    Args:
        count: number of objects of the image.
        group_size: objects that a group has room for.
        num_groups: number of groups.
        device: of the result.
    """
    slot = torch.arange(count, device=device)
    start = torch.arange(num_groups, device=device)[:, None] * 2 * group_size
    return (start + slot).flatten(), (start + group_size + slot).flatten()
