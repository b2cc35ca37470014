"""Density-guided dynamic queries (DGQ) of ScaleBridge-Det: a density map sets number and positions of the queries.

Only the abstract of the paper is public; ``docs/papers/scalebridge.md`` describes this reading of it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from detectron2.layers import get_norm
from torch import Tensor, nn
from torch.nn import functional as F

from d2tiny.layers import DilatedDepthwise
from d2tiny.layers.masked_norm import masked_norm
from d2tiny.modeling.contracts import Targets
from d2tiny.modeling.transformer.density_map import covered_cells, density_target, local_maxima
from d2tiny.modeling.transformer.selection import Proposals, SelectedTokens
from d2tiny.modeling.transformer.tokens import Tokens
from d2tiny.utils.errors import did_you_mean
from d2tiny.utils.precision import without_autocast

__all__ = ["DensityQueries"]

# Factor of densities in their squared error. With 100 the loss would be a thousand times the others where tiny objects
# are dense, and would determine the direction of a clipped gradient alone.
_LOSS_SCALE = 10.0


class DensityQueries(nn.Module):
    """Predicts a density map of the objects, and from it number and positions of the queries.

    **Number.** The predicted number of objects N̂ is the sum of the map. With rule ``bucket``, N̂ below 10, 100, 500 or
    above gives 300, 500, 900 or 1,500 queries; with ``linear`` it is 1.5 N̂ + 150, rounded up to a multiple of 64, in
    the same limits. In training there are at least as many queries as the true number asks for, and at least as many as
    objects up to the largest bucket; in the first ``warmup`` calls the true number alone decides.

    **Positions.** A quarter of the queries start from the highest local maxima of the map, the others from the tokens
    with the best ``max class logit + η ln(density + 10⁻³)``; no token is taken twice. Each image has its own number of
    queries and is padded to the largest of the batch, so that its result does not depend on the other images.
    """

    updates: Tensor

    def __init__(
        self,
        *,
        embed_dim: int = 256,
        hidden_dim: int = 128,
        buckets: Sequence[int] = (300, 500, 900, 1500),
        thresholds: Sequence[float] = (10, 100, 500),
        rule: str = "bucket",
        density_weight: float = 0.5,
        peak_share: float = 0.25,
        plain_peaks: bool = True,
        map_weight: float = 1.0,
        count_weight: float = 0.1,
        warmup: int = 0,
        norm: str = "GN",
    ) -> None:
        """Set the rule and build the density head.

        Args:
            embed_dim: C, channels of the encoder's output.
            hidden_dim: channels of the density head.
            buckets: possible numbers of queries, rising.
            thresholds: numbers of objects from which on the next bucket is taken; not used by ``linear``.
            rule: how the number of queries follows from that of objects, ``bucket`` or ``linear``.
            density_weight: η, weight of the density in the score of a token.
            peak_share: share of the queries that start from density peaks, in [0, 1].
            plain_peaks: queries at peaks start from the initial box of their token, with its features as content query;
                if False, from the encoder's predicted box and a learned content query, as all others.
            map_weight: weight of the loss of the map.
            count_weight: weight of the loss of the number of objects.
            warmup: training iterations in which only the true number of objects counts, usually an epoch.
            norm: normalisation in the density head.

        Raises:
            ValueError: a setting outside its range.
        """
        super().__init__()
        _check_settings(buckets, thresholds, rule, density_weight, peak_share, warmup)
        self.buckets, self.thresholds, self.rule = list(buckets), list(thresholds), rule
        self.density_weight, self.peak_share, self.plain_peaks = density_weight, peak_share, plain_peaks
        self.map_weight, self.count_weight, self.warmup = map_weight, count_weight, warmup
        self.register_buffer("updates", torch.zeros((), dtype=torch.int64))
        blocks: list[nn.Module] = [nn.Conv2d(embed_dim, hidden_dim, 1)]
        for _ in range(3):
            blocks += [
                DilatedDepthwise(hidden_dim, 3, 2, bias=False),
                nn.Conv2d(hidden_dim, hidden_dim, 1, bias=False),
                get_norm(norm, hidden_dim),
                nn.ReLU(inplace=True),
            ]
        last = nn.Conv2d(hidden_dim, 1, 1)
        assert last.bias is not None
        nn.init.constant_(last.bias, -7.0)  # at first 0.001 objects per cell: 36 in 800² px at stride 4
        self.head = nn.Sequential(*blocks, last)

    def predict_density(self, memory: Tensor, tokens: Tokens) -> Tensor:
        """Predict the density map.

        Args:
            memory: (B, S, C), output of the encoder.
            tokens: the encoder's tokens.

        Returns:
            (B, H, W) float32, objects per cell of the finest level; 0 in the padding.
        """
        height, width = tokens.spatial_shapes[0]
        finest = memory[:, : height * width].transpose(1, 2).unflatten(2, (height, width))
        padding = tokens.key_padding_mask[:, : height * width].view(-1, 1, height, width)
        valid, x = ~padding, finest.masked_fill(padding, 0.0)
        for layer in self.head:
            # the padding must influence neither the cells next to it nor the statistics of the norms
            x = masked_norm(layer, x, valid)
            x = x.masked_fill(padding, 0.0) if x.shape[1] > 1 else x
        with without_autocast(memory.device):
            return F.softplus(x.float()).masked_fill(padding, 0.0)[:, 0]

    def num_queries(self, num_objects: Tensor | float) -> int:
        """Return the number of queries for an (estimated) number of objects in an image."""
        count = float(num_objects)
        if self.rule == "linear":
            queries = 64 * math.ceil((1.5 * count + 150) / 64) if math.isfinite(count) else self.buckets[-1]
            return min(max(queries, self.buckets[0]), self.buckets[-1])
        return self.buckets[sum(count >= t for t in self.thresholds)]

    def num_queries_of_images(self, density: Tensor, gt_counts: Sequence[int] | None) -> list[int]:
        """Return the number of queries of each image.

        Args:
            density: (B, H, W) predicted map.
            gt_counts: in training, the true numbers of objects.
        """
        predicted = density.sum(dim=(1, 2)).tolist()
        if gt_counts is None:
            return [self.num_queries(n) for n in predicted]
        least = [max(self.num_queries(n), self._smallest_bucket(n)) for n in gt_counts]
        if int(self.updates) < self.warmup:
            return least
        return [max(a, self.num_queries(n)) for a, n in zip(least, predicted, strict=True)]

    def _smallest_bucket(self, count: int) -> int:
        """Return the smallest bucket with a query for each object, or else the largest bucket."""
        return next((b for b in self.buckets if b >= count), self.buckets[-1])

    @torch.no_grad()
    def select(
        self, proposals: Proposals, density: Tensor, tokens: Tokens, gt_counts: Sequence[int] | None = None
    ) -> SelectedTokens:
        """Select the tokens from which the queries of each image start.

        Args:
            proposals: of all tokens.
            density: (B, H, W) of :meth:`predict_density`.
            tokens: the encoder's tokens.
            gt_counts: in training, the numbers of objects of the images.
        """
        token_density = torch.log(self._token_density(density, tokens) + 1e-3)
        score = proposals.pred_logits.amax(dim=-1) + self.density_weight * token_density
        peaks = local_maxima(density)
        selected, num_peaks = [], []
        for i, number in enumerate(self.num_queries_of_images(density, gt_counts)):
            image_peaks, image_others = self._select_in_image(score[i], peaks[i], proposals.valid_mask[i], number)
            selected.append(torch.cat((image_peaks, image_others)))
            num_peaks.append(len(image_peaks))
        most = max(len(s) for s in selected)
        token_idx = torch.zeros(len(selected), most, dtype=torch.int64, device=density.device)
        padding_mask = torch.ones_like(token_idx, dtype=torch.bool)
        is_peak = torch.zeros_like(token_idx, dtype=torch.bool)
        for i, (image_idx, count) in enumerate(zip(selected, num_peaks, strict=True)):
            token_idx[i, : len(image_idx)], padding_mask[i, : len(image_idx)] = image_idx, False
            is_peak[i, :count] = True
        return SelectedTokens(token_idx, padding_mask, is_peak)

    def _select_in_image(
        self, score: Tensor, peaks: Tensor, valid_mask: Tensor, num_queries: int
    ) -> tuple[Tensor, Tensor]:
        """Return tokens at density peaks, highest first, and the others, best score first.

        Args:
            score: (S,) of the tokens.
            peaks: (H·W,) of :func:`~d2tiny.modeling.transformer.density_map.local_maxima`.
            valid_mask: (S,) boolean, tokens that may be selected.
            num_queries: number of both together; fewer if there are not so many valid tokens.
        """
        num_queries = min(num_queries, max(int(valid_mask.sum()), 1))
        peaks = peaks.masked_fill(~valid_mask[: peaks.shape[0]], 0.0)
        num_peaks = min(math.floor(self.peak_share * num_queries), int((peaks > 0).sum()))
        at_peaks = peaks.argsort(descending=True, stable=True)[:num_peaks]
        score = score.clone()
        score[at_peaks] = -torch.inf
        score = score.masked_fill(~valid_mask, -torch.inf)
        return at_peaks, score.argsort(descending=True, stable=True)[: num_queries - num_peaks]

    @staticmethod
    def _token_density(density: Tensor, tokens: Tokens) -> Tensor:
        """Return (B, S), the density summed over each token's cell, divided by the largest value of its level."""
        height, width = tokens.spatial_shapes[0]
        parts = []
        for size in tokens.spatial_shapes:
            # each level halves the last, rounding up: 200 cells become 13, each of 16
            step = tuple(2 ** max(0, round(math.log2(a / b))) for a, b in zip((height, width), size, strict=True))
            padded = F.pad(density, (0, max(0, size[1] * step[1] - width), 0, max(0, size[0] * step[0] - height)))
            level = F.avg_pool2d(padded[:, None], step, stride=step)[:, 0, : size[0], : size[1]] * step[0] * step[1]
            level = level.flatten(1)
            parts.append(level / level.amax(dim=1, keepdim=True).clamp(min=1e-6))
        return torch.cat(parts, dim=1)

    def losses(self, density: Tensor, tokens: Tokens, targets: Targets) -> dict[str, Tensor]:
        """Return ``loss_density``, a squared error, and ``loss_count``, |ln(1 + N̂) − ln(1 + N)|, means over the images.

        Args:
            density: (B, H, W) predicted map.
            tokens: the encoder's tokens.
            targets: objects of the images; cells in their ignore regions count neither in the map nor in the number.
        """
        if self.training:
            self.updates += 1
        height, width = tokens.spatial_shapes[0]
        valid = ~tokens.key_padding_mask[:, : height * width].view(-1, height, width)
        map_losses, count_losses = [], []
        for i, (boxes, regions) in enumerate(zip(targets.boxes, targets.ignore_boxes, strict=True)):
            size = (int(valid[i, :, 0].sum()), int(valid[i, 0].sum()))
            scale = boxes.new_tensor([size[1], size[0]]).repeat(2)
            target = density_target(boxes.float() * scale, size)
            predicted = density[i, : size[0], : size[1]]
            if len(regions):
                learned = ~covered_cells(regions.float() * scale, size)
                target, predicted = target * learned, predicted * learned
            map_losses.append(((_LOSS_SCALE * (predicted - target)) ** 2).mean())
            count_losses.append((torch.log1p(predicted.sum()) - torch.log1p(target.sum())).abs())
        return {
            "loss_density": self.map_weight * torch.stack(map_losses).mean(),
            "loss_count": self.count_weight * torch.stack(count_losses).mean(),
        }


def _check_settings(
    buckets: Sequence[int],
    thresholds: Sequence[float],
    rule: str,
    density_weight: float,
    peak_share: float,
    warmup: int,
) -> None:
    if rule not in ("bucket", "linear"):
        raise ValueError(f"DensityQueries: unknown rule '{rule}'. {did_you_mean(rule, ('bucket', 'linear'))}")
    for name, values in (("buckets", list(buckets)), ("thresholds", list(thresholds))):
        if values != sorted(values) or (values and values[0] < 0):
            raise ValueError(f"DensityQueries: {name} {values} must rise, and not be negative.")
    if not buckets or buckets[0] < 1 or (rule == "bucket" and len(buckets) != len(thresholds) + 1):
        raise ValueError(
            f"DensityQueries: there must be one more of buckets {list(buckets)} than of thresholds "
            f"{list(thresholds)}, and at least one query."
        )
    if not 0 <= peak_share <= 1 or density_weight < 0 or warmup < 0:
        raise ValueError(
            "DensityQueries: peak_share in [0, 1], density_weight >= 0 and warmup >= 0, got "
            f"{peak_share}, {density_weight}, {warmup}."
        )
