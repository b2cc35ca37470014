"""DGQ of ScaleBridge-Det: a density map says how many queries an image gets, and where (SPEC §11.3)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from detectron2.layers import get_norm
from torch import Tensor, nn
from torch.nn import functional as F

from d2tiny.layers import DilatedDepthwise
from d2tiny.layers.masked_norm import masked_norm
from d2tiny.modeling.transformer.selection import Proposals
from d2tiny.modeling.transformer.tokens import Tokens
from d2tiny.utils.errors import did_you_mean
from d2tiny.utils.precision import without_autocast

__all__ = ["DensityQueries", "Selected", "density_target"]

_SIGMA, _LEAST_SIGMA, _LARGEST_SIGMA = 0.25, 0.75, 8.0  # of √(w·h); cells
# Of the densities in their loss. SPEC has 100, which makes it a thousand times the others where tiny objects are dense,
# and all that a clipped gradient is about.
_SCALE = 10.0


def density_target(boxes: Tensor, size: tuple[int, int]) -> Tensor:
    """(H, W) map that sums to the number of boxes: for each a Gaussian, renormalised after the border cut it.

    σ is a quarter of √(w·h), at least 0.75 and at most 8 cells, the window 3 σ.

    Args:
        boxes: (G, 4) cx, cy, w, h in cells.
        size: H, W.
    """
    height, width = size
    boxes = boxes.float()
    sigma = (_SIGMA * boxes[:, 2:].clamp(min=0).prod(dim=1).sqrt()).clamp(_LEAST_SIGMA, _LARGEST_SIGMA)[:, None]

    def axis(centre: Tensor, cells: int) -> Tensor:
        centre = centre.clamp(0, cells)[:, None]
        distance = torch.arange(cells, device=boxes.device) + 0.5 - centre
        weight = torch.exp(-0.5 * (distance / sigma) ** 2) * (distance.abs() <= 3 * sigma)
        return weight / weight.sum(dim=1, keepdim=True)

    # A Gaussian of both axes is a product, and so is its sum: one matrix product adds all of them.
    with without_autocast(boxes.device):
        return axis(boxes[:, 1], height).T @ axis(boxes[:, 0], width)


@dataclass(frozen=True)
class Selected:
    """The queries of a batch.

    Attributes:
        tokens: (B, K) which tokens they start from; of pads any.
        padding: (B, K) boolean, queries that are none.
        peaks: (B, K) boolean, queries that are density peaks.
    """

    tokens: Tensor
    padding: Tensor
    peaks: Tensor


class DensityQueries(nn.Module):
    """Predicts a density map and from it number and places of the queries.

    The number of objects N̂ is the sum of the map. ``bucket``: N̂ under 10, 100, 500 or not gives 300, 500, 900 or
    1,500 queries; ``linear``: 1.5 N̂ + 150 in steps of 64, between the same limits. In training at least as many as
    the true number asks for, in the first ``warmup`` calls that alone, and never fewer than there are objects while the
    largest bucket allows it.

    Places: a quarter of the queries are the highest local maxima of the map, the others the tokens with the best
    ``max logit + η ln(density + 10⁻³)``; a token is taken once. Every image gets its own number and is padded, so
    that its result does not depend on the others of the batch.
    """

    updates: Tensor

    def __init__(
        self,
        *,
        channels: int = 256,
        hidden: int = 128,
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
        """Set the rule.

        Args:
            channels: of the memory.
            hidden: of the density head.
            buckets: numbers of queries, rising.
            thresholds: numbers of objects from which on the next bucket is taken; ``linear`` needs none.
            rule: ``bucket`` or ``linear``.
            density_weight: η.
            peak_share: share of the queries that are density peaks, in [0, 1].
            plain_peaks: peaks start from the box of their cell, with the token's features as content; otherwise like
                all other queries, from the encoder's box and a learned content.
            map_weight: of the loss of the map.
            count_weight: of the loss of the number.
            warmup: training calls in which only the true number counts (an epoch).
            norm: of the density head.

        Raises:
            ValueError: a setting outside its range.
        """
        super().__init__()
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
        self.buckets, self.thresholds, self.rule = list(buckets), list(thresholds), rule
        self.density_weight, self.peak_share, self.plain_peaks = density_weight, peak_share, plain_peaks
        self.map_weight, self.count_weight, self.warmup = map_weight, count_weight, warmup
        self.register_buffer("updates", torch.zeros((), dtype=torch.int64))
        blocks: list[nn.Module] = [nn.Conv2d(channels, hidden, 1)]
        for _ in range(3):
            blocks += [
                DilatedDepthwise(hidden, 3, 2, bias=False),
                nn.Conv2d(hidden, hidden, 1, bias=False),
                get_norm(norm, hidden),
                nn.ReLU(inplace=True),
            ]
        last = nn.Conv2d(hidden, 1, 1)
        assert last.bias is not None
        nn.init.constant_(last.bias, -7.0)  # 0.001 objects a cell at first, 36 of 800² px at stride 4
        self.head = nn.Sequential(*blocks, last)

    def density(self, memory: Tensor, tokens: Tokens) -> Tensor:
        """(B, H, W) objects in each cell of the finest level, 0 in the padding; float32."""
        height, width = tokens.sizes[0]
        finest = memory[:, : height * width].transpose(1, 2).unflatten(2, (height, width))
        padding = tokens.padding[:, : height * width].view(-1, 1, height, width)
        inside, x = ~padding, finest.masked_fill(padding, 0.0)
        for layer in self.head:
            # what is none of the image must not count, also not in norms over the map
            x = masked_norm(layer, x, inside)
            x = x.masked_fill(padding, 0.0) if x.shape[1] > 1 else x
        with without_autocast(memory.device):
            return F.softplus(x.float()).masked_fill(padding, 0.0)[:, 0]

    def number(self, count: Tensor | float) -> int:
        """Queries for so many objects."""
        count = float(count)
        if self.rule == "linear":
            wanted = 64 * math.ceil((1.5 * count + 150) / 64) if math.isfinite(count) else self.buckets[-1]
            return min(max(wanted, self.buckets[0]), self.buckets[-1])
        return self.buckets[sum(count >= t for t in self.thresholds)]

    def numbers(self, density: Tensor, gt_counts: Sequence[int] | None) -> list[int]:
        """Queries of each image; in training the true numbers are known."""
        said = density.sum(dim=(1, 2)).tolist()
        if gt_counts is None:
            return [self.number(n) for n in said]
        known = [max(self.number(n), self._enough(n)) for n in gt_counts]
        if int(self.updates) < self.warmup:
            return known
        return [max(a, self.number(n)) for a, n in zip(known, said, strict=True)]

    def _enough(self, count: int) -> int:
        """Smallest bucket with a query for each object, else the largest."""
        return next((b for b in self.buckets if b >= count), self.buckets[-1])

    @torch.no_grad()
    def select(
        self, proposals: Proposals, density: Tensor, tokens: Tokens, gt_counts: Sequence[int] | None = None
    ) -> Selected:
        """Choose the queries of each image.

        Args:
            proposals: of the tokens.
            density: (B, H, W) of :meth:`density`.
            tokens: of the memory.
            gt_counts: in training the numbers of objects.
        """
        chosen, tops = [], []
        score = proposals.logits.amax(dim=-1) + self.density_weight * torch.log(self._of_tokens(density, tokens) + 1e-3)
        peaks = self._peaks(density)
        for i, number in enumerate(self.numbers(density, gt_counts)):
            usable = proposals.usable[i]
            number = min(number, max(int(usable.sum()), 1))
            first = peaks[i].masked_fill(~usable[: peaks.shape[1]], 0.0)
            count = min(math.floor(self.peak_share * number), int((first > 0).sum()))
            top = first.argsort(descending=True, stable=True)[:count]
            rest = score[i].clone()
            rest[top] = -torch.inf
            rest = rest.masked_fill(~usable, -torch.inf)
            others = rest.argsort(descending=True, stable=True)[: number - count]
            chosen.append(torch.cat((top, others)))
            tops.append(count)
        most = max(len(c) for c in chosen)
        index = torch.zeros(len(chosen), most, dtype=torch.int64, device=density.device)
        padding, peak = torch.ones_like(index, dtype=torch.bool), torch.zeros_like(index, dtype=torch.bool)
        for i, (c, count) in enumerate(zip(chosen, tops, strict=True)):
            index[i, : len(c)], padding[i, : len(c)], peak[i, :count] = c, False, True
        return Selected(index, padding, peak)

    @staticmethod
    def _peaks(density: Tensor) -> Tensor:
        """(B, H·W) the density where it is the highest of 3×3 cells, else 0."""
        highest = F.max_pool2d(density[:, None], 3, stride=1, padding=1)[:, 0]
        return torch.where((density == highest) & (density > 0), density, 0.0).flatten(1)

    @staticmethod
    def _of_tokens(density: Tensor, tokens: Tokens) -> Tensor:
        """(B, S) density of each token, added up on its level and divided by the largest of that."""
        height, width = tokens.sizes[0]
        parts = []
        for size in tokens.sizes:
            # levels halve, rounding up: 200 cells are 13 of 16
            step = tuple(2 ** max(0, round(math.log2(a / b))) for a, b in zip((height, width), size, strict=True))
            padded = F.pad(density, (0, max(0, size[1] * step[1] - width), 0, max(0, size[0] * step[0] - height)))
            level = F.avg_pool2d(padded[:, None], step, stride=step)[:, 0, : size[0], : size[1]] * step[0] * step[1]
            level = level.flatten(1)
            parts.append(level / level.amax(dim=1, keepdim=True).clamp(min=1e-6))
        return torch.cat(parts, dim=1)

    def losses(
        self, density: Tensor, tokens: Tokens, boxes: Sequence[Tensor], ignored: Sequence[Tensor] = ()
    ) -> dict[str, Tensor]:
        """``loss_density`` and ``loss_count``, means over the images.

        Args:
            density: (B, H, W).
            tokens: of the memory.
            boxes: (G, 4) of each image, cx, cy, w, h in shares of the image.
            ignored: (R, 4) of each image, regions whose cells count neither in the map nor in the number, likewise.
        """
        if self.training:
            self.updates += 1
        height, width = tokens.sizes[0]
        valid = ~tokens.padding[:, : height * width].view(-1, height, width)
        by_map, by_count = [], []
        for i, box in enumerate(boxes):
            inside = (int(valid[i, :, 0].sum()), int(valid[i, 0].sum()))
            scale = box.new_tensor([inside[1], inside[0]]).repeat(2)
            target = density_target(box.float() * scale, inside)
            said = density[i, : inside[0], : inside[1]]
            if len(ignored) and len(ignored[i]):
                counts = ~_covered(ignored[i].float() * scale, inside)
                target, said = target * counts, said * counts
            by_map.append(((_SCALE * (said - target)) ** 2).mean())
            by_count.append((torch.log1p(said.sum()) - torch.log1p(target.sum())).abs())
        return {
            "loss_density": self.map_weight * torch.stack(by_map).mean(),
            "loss_count": self.count_weight * torch.stack(by_count).mean(),
        }


def _covered(regions: Tensor, size: tuple[int, int]) -> Tensor:
    """(H, W) boolean, cells whose middle lies in one of the regions (R, 4) cx, cy, w, h in cells."""

    def axis(centre: Tensor, side: Tensor, cells: int) -> Tensor:
        middle = torch.arange(cells, device=regions.device) + 0.5
        return (middle - centre[:, None]).abs() <= side[:, None] / 2

    rows, columns = axis(regions[:, 1], regions[:, 3], size[0]), axis(regions[:, 0], regions[:, 2], size[1])
    return (rows[:, :, None] & columns[:, None]).any(dim=0)
