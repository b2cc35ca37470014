"""Density-guided dynamic queries (DGQ) of ScaleBridge-Det: a density map sets number and positions of the queries.

Only the abstract of the paper is public; ``docs/papers/scalebridge.md`` describes this reading of it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from detectron2.utils.events import EventStorage
from torch import Tensor, nn

from d2tiny.modeling.contracts import Targets
from d2tiny.modeling.transformer.count_classes import DEFAULT_THRESHOLDS, CountClassifier
from d2tiny.modeling.transformer.density_head import DensityHead, density_loss
from d2tiny.modeling.transformer.density_map import count_objects, covered_cells, density_target, local_maxima
from d2tiny.modeling.transformer.selection import Proposals, SelectedTokens, best_places
from d2tiny.modeling.transformer.tokens import Tokens
from d2tiny.utils.errors import did_you_mean
from d2tiny.utils.tracing import is_traced

__all__ = ["DEFAULT_BUCKETS", "DensityQueries", "DensityTarget"]

# numbers of queries for few, some, many and very many objects
DEFAULT_BUCKETS = (300, 500, 900, 1500)
_SOURCES, _RULES = ("neck", "memory"), ("bucket", "linear", "classes")


class DensityTarget(NamedTuple):
    """What the density of an image should be.

    Attributes:
        density: (h, w) objects per cell.
        learned: (h, w) boolean, False in ignore regions.
    """

    density: Tensor
    learned: Tensor


class DensityQueries(nn.Module):
    """Predicts a density map of the objects, and from it number and positions of the queries.

    **Number.** The predicted number of objects N̂ is that of the map's local maxima over ``threshold``. With rule
    ``bucket``, N̂ below 10, 100, 500 or above gives 300, 500, 900 or 1,500 queries; with ``linear`` it is 1.5 N̂ + 150,
    rounded up to a multiple of 64, in the same limits; with ``classes``, a classifier chooses the bucket as in DQ-DETR.
    In training there are at least ``train_queries``, as many as the true number asks for, and at least as many as
    objects, all up to the largest bucket; in the first ``warmup`` calls the prediction does not count.

    **Positions.** The same maxima become queries (in tests those over ``peak_threshold``), the highest first, up to
    ``peak_share`` of all; the others start from the tokens with the best class score. No token is taken twice. Each
    image has its own number of queries and is padded to the largest of the batch, so that its result does not depend on
    the other images.
    """

    updates: Tensor

    def __init__(
        self,
        *,
        embed_dim: int = 256,
        hidden_dim: int = 128,
        num_levels: int = 4,
        source: str = "memory",
        buckets: Sequence[int] = DEFAULT_BUCKETS,
        thresholds: Sequence[float] = DEFAULT_THRESHOLDS,
        rule: str = "bucket",
        classifier: CountClassifier | None = None,
        threshold: float = 0.05,
        peak_threshold: float = 0.15,
        peak_share: float = 0.5,
        plain_peaks: bool = True,
        map_weight: float = 0.1,
        count_weight: float = 0.01,
        class_weight: float = 1.0,
        warmup: int = 0,
        train_queries: int = 0,
        norm: str = "GN",
    ) -> None:
        """Set the rule and build the density head.

        Args:
            embed_dim: C, channels of the levels.
            hidden_dim: channels of the density head.
            num_levels: levels that the density head reads, the finest ones.
            source: ``memory``, the encoder's output, or ``neck``, its input: then the density is known before the
                encoder, which may leave out tokens (:class:`~d2tiny.modeling.transformer.sparsity.TokenSparsity`).
            buckets: possible numbers of queries, rising.
            thresholds: numbers of objects from which on the next bucket is taken; not used by ``linear``.
            rule: how the number of queries follows from that of objects: ``bucket``, ``linear`` or ``classes``.
            classifier: of the number of objects, with the same thresholds; needed by ``classes``. With another rule it
                is trained and logged beside the map, for comparison.
            threshold: density from which on a local maximum is an object. A tiny object in the middle of its cell has
                0.28 objects a cell there, a large one 0.07.
            peak_threshold: in tests, density from which on a local maximum starts a query. What may be an object has to
                be counted, but a weak maximum is a worse start than a token with a high class score. Peaks of objects
                over 4 cells are lower than the default; these start from tokens. In training all objects start one, so
                that queries from peaks are learned.
            peak_share: largest share of the queries that start from density peaks, in [0, 1].
            plain_peaks: queries at peaks start from the initial box of their token, with its features as content query;
                if False, from the encoder's predicted box and a learned content query, as all others.
            map_weight: weight of the loss of the map. With a weight of 1 its gradient is larger than that of all other
                losses in the backbone, and the detector learns worse.
            count_weight: weight of the loss of the number of objects.
            class_weight: weight of the classifier's loss.
            warmup: training iterations in which only the true number of objects counts, usually an epoch.
            train_queries: smallest number of queries in training, whatever the crop holds; no more than the largest
                bucket are taken.
            norm: normalisation in the density head.

        Raises:
            ValueError: a setting outside its range.
        """
        super().__init__()
        _check_settings(buckets, thresholds, rule, source, classifier)
        if not 0 <= peak_share <= 1:
            raise ValueError(f"DensityQueries: peak_share must be in [0, 1], got {peak_share}.")
        least = {
            "threshold": threshold,
            "peak_threshold": peak_threshold,
            "warmup": warmup,
            "train_queries": train_queries,
            "map_weight": map_weight,
            "count_weight": count_weight,
            "class_weight": class_weight,
        }
        if wrong := {name: value for name, value in least.items() if value < 0}:
            raise ValueError(f"DensityQueries: must be at least 0, got {wrong}.")
        self.buckets, self.thresholds, self.rule, self.source = list(buckets), list(thresholds), rule, source
        self.threshold, self.peak_share, self.plain_peaks = threshold, peak_share, plain_peaks
        self.peak_threshold = peak_threshold
        self.map_weight, self.count_weight, self.class_weight = map_weight, count_weight, class_weight
        self.warmup, self.train_queries, self.classifier = warmup, train_queries, classifier
        self.register_buffer("updates", torch.zeros((), dtype=torch.int64))
        self.head = DensityHead(embed_dim=embed_dim, hidden_dim=hidden_dim, num_levels=num_levels, norm=norm)

    def predict_density(self, features: Tensor, tokens: Tokens) -> Tensor:
        """Predict the density map.

        Args:
            features: (B, S, C) of the tokens, input or output of the encoder.
            tokens: the encoder's tokens.

        Returns:
            (B, H, W) float32, objects per cell of the finest level; 0 in the padding.
        """
        density: Tensor = self.head(tokens.maps(features), tokens.padding_maps())
        return density

    def classify(self, features: Tensor, tokens: Tokens) -> Tensor | None:
        """Return (B, classes) logits of the number of objects; None without a classifier."""
        if self.classifier is None:
            return None
        padding = tokens.padding_maps()
        logits: Tensor = self.classifier(tokens.maps(features)[0], None if padding is None else padding[0])
        return logits

    def expected_count(self, class_logits: Tensor | None) -> float | None:
        """Return the classifier's number of objects of one image, not rounded; None without a classifier."""
        if self.classifier is None or class_logits is None:
            return None
        return float(self.classifier.expected_count(class_logits))

    def num_queries(self, num_objects: Tensor | float) -> int:
        """Return the number of queries for an (estimated) number of objects in an image."""
        count = float(num_objects)
        if self.rule == "linear":
            queries = 64 * math.ceil((1.5 * count + 150) / 64) if math.isfinite(count) else self.buckets[-1]
            return min(max(queries, self.buckets[0]), self.buckets[-1])
        return self.buckets[sum(count >= t for t in self.thresholds)]

    def num_queries_of_images(
        self, density: Tensor, gt_counts: Sequence[int] | None, class_logits: Tensor | None = None
    ) -> list[int]:
        """Return the number of queries of each image.

        Args:
            density: (B, H, W) predicted map.
            gt_counts: in training, the true numbers of objects.
            class_logits: (B, classes) of :meth:`classify`, for the rule ``classes``.
        """
        if self.rule == "classes":
            assert class_logits is not None
            predicted = [self.buckets[i] for i in class_logits.argmax(dim=1).tolist()]
        else:
            predicted = [self.num_queries(n) for n in count_objects(density, self.threshold).tolist()]
        if gt_counts is None:
            return predicted
        train_queries = min(self.train_queries, self.buckets[-1])
        least = [max(train_queries, self.num_queries(n), self._smallest_bucket(n)) for n in gt_counts]
        if int(self.updates) < self.warmup:
            return least
        return [max(a, b) for a, b in zip(least, predicted, strict=True)]

    def _smallest_bucket(self, count: int) -> int:
        """Return the smallest bucket with a query for each object, or else the largest bucket."""
        return next((b for b in self.buckets if b >= count), self.buckets[-1])

    @torch.no_grad()
    def select(
        self,
        proposals: Proposals,
        density: Tensor,
        gt_counts: Sequence[int] | None = None,
        class_logits: Tensor | None = None,
    ) -> SelectedTokens:
        """Select the tokens from which the queries of each image start.

        Args:
            proposals: of all tokens.
            density: (B, H, W) of :meth:`predict_density`.
            gt_counts: in training, the numbers of objects of the images.
            class_logits: (B, classes) of :meth:`classify`.
        """
        least = self.threshold if self.training else max(self.threshold, self.peak_threshold)
        score, peaks = proposals.pred_logits.amax(dim=-1), local_maxima(density, least)
        if is_traced():
            numbers = self._numbers_as_tensor(density, class_logits)
            return self._select_in_slots(score, peaks, proposals.valid_mask, numbers)
        selected, num_peaks = [], []
        for i, number in enumerate(self.num_queries_of_images(density, gt_counts, class_logits)):
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

    def _numbers_as_tensor(self, density: Tensor, class_logits: Tensor | None) -> Tensor:
        """Return what :meth:`num_queries_of_images` does in tests, as a tensor (B,) int64."""
        buckets = torch.tensor(self.buckets, device=density.device)
        if self.rule == "classes":
            assert class_logits is not None
            return buckets[class_logits.argmax(dim=1)]
        count = count_objects(density, self.threshold)
        if self.rule == "linear":
            return (64 * ((3 * count + 427) // 128)).clamp(self.buckets[0], self.buckets[-1])  # ⌈(1.5 N̂ + 150) / 64⌉
        limits = torch.tensor(self.thresholds, device=density.device)
        return buckets[(count[:, None] >= limits).sum(dim=1)]

    def _select_in_slots(self, score: Tensor, peaks: Tensor, valid_mask: Tensor, number: Tensor) -> SelectedTokens:
        """Select as :meth:`_select_in_image`, with as many slots for every image, for graphs that are recorded.

        The first slots are for peaks, as many as there could be, the others for all queries; what is not needed is
        padding. Arguments are those of all images, with a leading dimension B.
        """
        most = self.buckets[-1]
        number = number.minimum(valid_mask.sum(dim=1).clamp(min=1))
        peaks = peaks.masked_fill(~valid_mask[:, : peaks.shape[1]], 0.0)
        limit = torch.floor(self.peak_share * number.double()).long().minimum((peaks > 0).sum(dim=1))
        slots = torch.arange(most, device=score.device)
        num_peaks = math.floor(self.peak_share * most)
        at_peaks, of_peak = best_places(peaks, num_peaks), slots[:num_peaks] < limit[:, None]
        # a place may stand in several slots, of which one is used
        taken = torch.zeros_like(score).scatter_reduce(1, at_peaks, of_peak.to(score.dtype), "amax") > 0
        others = best_places(score.masked_fill(~valid_mask | taken, -torch.inf), most)
        padding = torch.cat((~of_peak, slots >= (number - limit)[:, None]), dim=1)
        is_peak = torch.cat((torch.ones_like(of_peak), torch.zeros_like(others, dtype=torch.bool)), dim=1)
        return SelectedTokens(torch.cat((at_peaks, others), dim=1), padding, is_peak)

    def losses(
        self, density: Tensor, truth: Sequence[DensityTarget], class_logits: Tensor | None = None
    ) -> dict[str, Tensor]:
        """Return the losses, means over the images.

        ``loss_density`` is :func:`~d2tiny.modeling.transformer.density_head.density_loss`, ``loss_count`` is
        |ln(1 + ΣD̂) − ln(1 + N)|, and ``loss_count_class`` the cross-entropy of a classifier.

        Args:
            density: (B, H, W) predicted map.
            truth: of :meth:`targets`.
            class_logits: (B, classes) of :meth:`classify`.
        """
        if self.training:
            self.updates += 1
        map_losses, count_losses, counts = [], [], []
        for predicted, (target, learned) in zip(density, truth, strict=True):
            predicted, target = predicted[: target.shape[0], : target.shape[1]] * learned, target * learned
            map_losses.append(density_loss(predicted, target))
            counts.append(target.sum())
            count_losses.append((torch.log1p(predicted.sum()) - torch.log1p(counts[-1])).abs())
        losses = {
            "loss_density": self.map_weight * torch.stack(map_losses).mean(),
            "loss_count": self.count_weight * torch.stack(count_losses).mean(),
        }
        if self.classifier is not None and class_logits is not None:
            numbers = torch.stack(counts).round().tolist()
            losses["loss_count_class"] = self.class_weight * self.classifier.loss(class_logits, numbers)
        return losses

    @staticmethod
    def targets(tokens: Tokens, targets: Targets) -> list[DensityTarget]:
        """Return the true density of each image, and which of its cells are outside ignore regions."""
        result = []
        sizes, extents = tokens.valid_sizes(0), tokens.valid_extents(0)
        for size, extent, boxes, regions in zip(sizes, extents, targets.boxes, targets.ignore_boxes, strict=True):
            scale = extent.to(boxes).repeat(2)
            learned = ~covered_cells(regions.float() * scale, size)
            result.append(DensityTarget(density_target(boxes.float() * scale, size), learned))
        return result

    @torch.no_grad()
    def log(
        self,
        storage: EventStorage,
        density: Tensor,
        truth: Sequence[DensityTarget],
        class_logits: Tensor | None = None,
    ) -> None:
        """Log the mean error of the number of objects outside ignore regions, and its bias (too many are positive)."""
        counts, errors = [], []
        for predicted, (target, learned) in zip(density, truth, strict=True):
            counts.append((target * learned).sum().round())
            inside = predicted[: target.shape[0], : target.shape[1]] * learned
            errors.append(count_objects(inside[None], self.threshold)[0] - counts[-1])
        error = torch.stack(errors)
        storage.put_scalars(count_error=float(error.abs().mean()), count_bias=float(error.mean()))
        if self.classifier is not None and class_logits is not None:
            error = self.classifier.expected_count(class_logits) - torch.stack(counts)
            storage.put_scalars(class_count_error=float(error.abs().mean()), class_count_bias=float(error.mean()))


def _check_settings(
    buckets: Sequence[int], thresholds: Sequence[float], rule: str, source: str, classifier: CountClassifier | None
) -> None:
    for name, value, known in (("rule", rule, _RULES), ("source", source, _SOURCES)):
        if value not in known:
            raise ValueError(f"DensityQueries: unknown {name} '{value}'. {did_you_mean(value, known)}")
    for name, values in (("buckets", list(buckets)), ("thresholds", list(thresholds))):
        if values != sorted(values) or (values and values[0] < 0):
            raise ValueError(f"DensityQueries: {name} {values} must rise, and not be negative.")
    if not buckets or buckets[0] < 1 or (rule != "linear" and len(buckets) != len(thresholds) + 1):
        raise ValueError(
            f"DensityQueries: there must be one more of buckets {list(buckets)} than of thresholds "
            f"{list(thresholds)}, and at least one query."
        )
    if rule == "classes" and (classifier is None or classifier.thresholds != list(thresholds)):
        raise ValueError(
            "DensityQueries: rule 'classes' needs a classifier, a CountClassifier with the same thresholds "
            f"{list(thresholds)}."
        )
