"""DINO for tiny objects, and ScaleBridge-Det: with density-guided queries and routed mixture attention."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from detectron2.modeling import META_ARCH_REGISTRY
from detectron2.modeling.postprocessing import detector_postprocess
from detectron2.structures import Boxes, ImageList, Instances
from detectron2.utils.events import get_event_storage
from torch import Tensor, nn

from d2tiny.layers.position import MapPosition, inverse_sigmoid
from d2tiny.modeling.targets import split_ignored
from d2tiny.modeling.transformer import (
    REM,
    Decoded,
    DeformableEncoder,
    Denoising,
    DensityQueries,
    DINOCriterion,
    DINODecoder,
    Proposals,
    QuerySelection,
    Routed,
    Tokens,
    flatten_maps,
    padding_masks,
)
from d2tiny.modeling.transformer.denoising import DenoisingQueries
from d2tiny.ops.boxes import cxcywh_to_xyxy, xyxy_to_cxcywh

__all__ = ["Explanation", "TinyDINO"]

_PAD_BOX = (0.5, 0.5, 0.01, 0.01)


@dataclass(frozen=True)
class Explanation:
    """Decisions for one image.

    Attributes:
        density: (H, W) objects in each cell of the finest level, without padding.
        queries: (K, 2) where the queries begin, x and y in px.
        shares: L times (E, H, W) of the experts, without padding.
        categories: names of the E experts by category, in order.
    """

    density: Tensor | None
    queries: Tensor
    shares: list[Tensor] | None
    categories: dict[str, list[str]]


@dataclass(frozen=True)
class _Truth:
    """Objects of a batch: classes (G,), boxes (G, 4) and ignore regions (R, 4) in shares of the image."""

    classes: list[Tensor]
    boxes: list[Tensor]
    ignored: list[Tensor]


@dataclass(frozen=True)
class _Queries:
    """Queries of a batch.

    Attributes:
        content: (B, K, C).
        reference: (B, K, 4) logits of boxes, without gradient.
        padding: (B, K) boolean, queries that are none; None where all images have K.
        logits: (B, K, classes) of the encoder.
        boxes: (B, K, 4) of the encoder in [0, 1].
    """

    content: Tensor
    reference: Tensor
    padding: Tensor | None
    logits: Tensor
    boxes: Tensor


@dataclass(frozen=True)
class _Seen:
    """What comes before the decoder: tokens, their memory, the queries, density (B, H, W), and what was routed."""

    tokens: Tokens
    memory: Tensor
    queries: _Queries
    density: Tensor | None
    routed: Routed | None


@META_ARCH_REGISTRY.register()
class TinyDINO(nn.Module):
    """Detection transformer: encoder over all levels, queries from its best tokens, decoder, no NMS.

    Without ``density`` and ``routing`` it is plain DINO; with both it is ScaleBridge-Det. ``pred_boxes`` of a query
    may occur with several classes, as in DINO.
    """

    def __init__(
        self,
        *,
        backbone: Any,
        in_features: Sequence[str],
        num_classes: int,
        encoder: DeformableEncoder,
        selection: QuerySelection,
        decoder: DINODecoder,
        criterion: DINOCriterion,
        pixel_mean: Sequence[float],
        pixel_std: Sequence[float],
        channels: int = 256,
        denoising: Denoising | None = None,
        density: DensityQueries | None = None,
        routing: REM | None = None,
        temperature: float = 20.0,
        max_detections: int = 1500,
        score_thresh: float = 0.0,
        input_format: str = "RGB",
    ) -> None:
        """Put the parts together.

        Args:
            backbone: with a :class:`~d2tiny.modeling.necks.ChannelMapper`.
            in_features: names of the levels, finest first.
            num_classes: of objects.
            encoder: over all levels.
            selection: of the queries.
            decoder: of the queries.
            criterion: of training.
            pixel_mean: of each channel.
            pixel_std: of each channel.
            channels: C of all levels.
            denoising: of training; None for none.
            density: chooses number and places of the queries (DGQ).
            routing: mixes experts into the levels (REM).
            temperature: of the position embedding.
            max_detections: of an image.
            score_thresh: scores of detections must be above it.
            input_format: order of the channels, for visualisation.

        Raises:
            ValueError: parts that do not fit together.
        """
        super().__init__()
        for name, part in (("density", density), ("routing", routing)):
            if part is not None and not isinstance(part, nn.Module):
                raise ValueError(
                    f"TinyDINO: {name}={part!r} is no component. In a config, dgq(model) and rem(model) of "
                    "configs/common/parts/dino.py put them in."
                )
        shapes = backbone.output_shape()
        strides = [shapes[n].stride for n in in_features if n in shapes]
        if strides != sorted(strides):
            raise ValueError(f"TinyDINO: in_features={list(in_features)} must begin with the finest level.")
        if unread := sorted(set(shapes) - set(in_features)):
            raise ValueError(f"TinyDINO: nothing reads the backbone's levels {unread}; name them in in_features.")
        for name, levels in (("encoder", encoder.levels), ("decoder", decoder.levels)):
            if levels != len(in_features):
                raise ValueError(f"TinyDINO: {name}.levels={levels}, but in_features has {len(in_features)} levels.")
        for name, owner in (("selection", selection), ("decoder", decoder), ("denoising", denoising)):
            if owner is not None and owner.num_classes != num_classes:
                raise ValueError(f"TinyDINO: {name}.num_classes={owner.num_classes}, but num_classes={num_classes}.")
        if max_detections < 1 or not 0 <= score_thresh < 1:
            raise ValueError(
                f"TinyDINO: max_detections={max_detections} must be at least 1, score_thresh={score_thresh} in [0, 1)."
            )
        wrong = {n: shapes[n].channels for n in in_features if n in shapes and shapes[n].channels != channels}
        if wrong:
            raise ValueError(f"TinyDINO: channels={channels}, but the backbone's levels have {wrong}.")
        if density is not None and density.buckets[-1] > selection.queries:
            raise ValueError(
                f"TinyDINO: density.buckets go up to {density.buckets[-1]}, but selection.queries={selection.queries}."
            )
        self.backbone, self.head_in_features = backbone, list(in_features)
        self.encoder, self.selection, self.decoder, self.criterion = encoder, selection, decoder, criterion
        self.denoising, self.density, self.routing = denoising, density, routing
        self.num_classes, self.max_detections, self.score_thresh = num_classes, max_detections, score_thresh
        self.input_format = input_format
        self.position = MapPosition(channels // 2, temperature)
        self.level_embed = nn.Parameter(torch.randn(len(in_features), channels))
        self.register_buffer("pixel_mean", torch.tensor(list(pixel_mean)).view(-1, 1, 1), persistent=False)
        self.register_buffer("pixel_std", torch.tensor(list(pixel_std)).view(-1, 1, 1), persistent=False)

    @property
    def device(self) -> torch.device:
        """Where the model lives."""
        mean: Any = self.pixel_mean
        device: torch.device = mean.device
        return device

    def forward(self, batched_inputs: list[dict[str, Any]]) -> Any:
        """Losses in training, else detections, as Detectron2's models give them."""
        images = self._images(batched_inputs)
        truth = None
        if self.training:
            truth = self._truth([item["instances"].to(self.device) for item in batched_inputs])
        seen = self._look(images, None if truth is None else [len(c) for c in truth.classes])
        if truth is not None:
            return self._losses(seen, truth)
        said = self._decode(seen, None)[0]
        results = self._detections(said, seen.queries.padding, images.image_sizes)
        return [
            {"instances": detector_postprocess(r, item.get("height", size[0]), item.get("width", size[1]))}
            for r, item, size in zip(results, batched_inputs, images.image_sizes, strict=True)
        ]

    @torch.no_grad()
    def explain(self, batched_input: dict[str, Any]) -> Explanation:
        """What DGQ and REM decide for one image, for pictures; in evaluation mode."""
        images = self._images([batched_input])
        seen = self._look(images, None)
        tokens, density, routed = seen.tokens, seen.density, seen.routed
        height, width = images.image_sizes[0]
        boxes = seen.queries.reference[0].sigmoid()
        cells = [
            (round(float(valid[1]) * size[0]), round(float(valid[0]) * size[1]))
            for size, valid in zip(tokens.sizes, tokens.valid[0], strict=True)
        ]
        return Explanation(
            density=None if density is None else density[0, : cells[0][0], : cells[0][1]],
            queries=boxes[:, :2] * boxes.new_tensor((width, height)),
            shares=None
            if routed is None
            else [p[0, :, :h, :w] for p, (h, w) in zip(routed.shares, cells, strict=True)],
            categories={} if self.routing is None else self.routing.by_category(),
        )

    def _images(self, batch: list[dict[str, Any]]) -> ImageList:
        images = [(item["image"].to(self.device) - self.pixel_mean) / self.pixel_std for item in batch]
        return ImageList.from_tensors(images, self.backbone.size_divisibility)

    def _look(self, images: ImageList, counts: Sequence[int] | None) -> _Seen:
        """All that comes before the decoder; in training with the numbers of objects."""
        tokens, routed = self._tokens(images)
        memory = self.encoder(tokens)
        density = None if self.density is None else self.density.density(memory, tokens)
        queries = self._queries(self.selection.propose(memory, tokens), tokens, density, counts)
        return _Seen(tokens, memory, queries, density, routed)

    def _tokens(self, images: ImageList) -> tuple[Tokens, Routed | None]:
        features = self.backbone(images.tensor)
        maps = [features[name] for name in self.head_in_features]
        height, width = images.tensor.shape[-2:]
        paddings = padding_masks(images.image_sizes, (height, width), maps)
        routed = None
        if self.routing is not None:
            maps, routed = self.routing(maps, paddings, images.tensor)
        positions = [self.position(p) for p in paddings]
        return flatten_maps(maps, positions, paddings, self.level_embed), routed

    def _truth(self, instances: Sequence[Instances]) -> _Truth:
        classes, boxes, ignored = [], [], []
        for image in instances:
            objects, regions = split_ignored(image)
            gt = objects.gt_boxes.tensor
            whole = ((gt[:, 2:] - gt[:, :2]) > 0).all(dim=1)
            scale = gt.new_tensor(image.image_size[::-1]).repeat(2)
            classes.append(objects.gt_classes[whole])
            boxes.append(xyxy_to_cxcywh(gt[whole]) / scale)
            ignored.append(xyxy_to_cxcywh(regions) / scale)
        return _Truth(classes, boxes, ignored)

    def _queries(
        self, proposals: Proposals, tokens: Tokens, density: Tensor | None, counts: Sequence[int] | None
    ) -> _Queries:
        """Content and boxes of the queries of each image."""
        if self.density is None:
            index, peaks = self.selection.select(proposals, self.selection.queries), None
            # an image smaller than others of its batch may have fewer tokens than there are queries
            padding = ~proposals.usable.gather(1, index)
        else:
            assert density is not None
            chosen = self.density.select(proposals, density.detach(), tokens, counts)
            index, padding = chosen.tokens, chosen.padding
            peaks = chosen.peaks if self.density.plain_peaks else None
        features, starts, logits = (
            x.gather(1, index[..., None].expand(-1, -1, x.shape[2]))
            for x in (proposals.features, proposals.starts, proposals.logits)
        )
        boxes = self.selection.boxes(features, starts)
        content = self.selection.content.weight[: index.shape[1]].expand(len(index), -1, -1)
        reference = boxes.detach()
        if peaks is not None:
            content = torch.where(peaks[..., None], features.detach().to(content.dtype), content)
            reference = torch.where(peaks[..., None], inverse_sigmoid(starts.float()), reference)
        if not bool(padding.any()):
            return _Queries(content, reference, None, logits, boxes.sigmoid())
        content = content.masked_fill(padding[..., None], 0.0)
        pad = inverse_sigmoid(reference.new_tensor(_PAD_BOX))
        reference = torch.where(padding[..., None], pad, reference)
        return _Queries(content, reference, padding, logits, boxes.sigmoid())

    def _decode(self, seen: _Seen, noisy: DenoisingQueries | None) -> tuple[Decoded, Decoded | None]:
        """What the layers say of the matching queries, and of the noisy ones before them."""
        queries = seen.queries
        content, reference, extra = queries.content, queries.reference, 0
        blocked = None
        if noisy is not None:
            extra = noisy.content.shape[1]
            content = torch.cat((noisy.content.to(content.dtype), content), dim=1)
            reference = torch.cat((noisy.reference, reference), dim=1)
            blocked = noisy.blocked
        if queries.padding is not None:
            pads = torch.cat((queries.padding.new_zeros(len(content), extra), queries.padding), dim=1)
            blocked = pads[:, None] if blocked is None else pads[:, None] | blocked[None]
            blocked = blocked.expand(-1, content.shape[1], -1)
        said = self.decoder(content, reference, seen.memory, seen.tokens, blocked)
        own = Decoded(said.logits[:, :, extra:], said.boxes[:, :, extra:])
        return own, Decoded(said.logits[:, :, :extra], said.boxes[:, :, :extra]) if extra else None

    def _losses(self, seen: _Seen, truth: _Truth) -> dict[str, Tensor]:
        losses: dict[str, Tensor] = {}
        queries = seen.queries
        if self.density is not None and seen.density is not None:
            losses |= self.density.losses(seen.density, seen.tokens, truth.boxes, truth.ignored)
        noisy = None
        if self.denoising is not None:
            noisy = self.denoising(truth.classes, truth.boxes, queries.content.shape[1])
        # Once for all losses, and by every process, whatever its images hold.
        count, noisy_count = self.criterion.counts(truth.classes, 0 if noisy is None else len(noisy.query))
        own, extra = self._decode(seen, noisy)
        real = None if queries.padding is None else ~queries.padding
        losses |= self.criterion.decoded(own, truth.classes, truth.boxes, count, real, truth.ignored)
        # tokens outside the image are never right, and their logits are infinite
        logits = queries.logits if real is None else queries.logits.masked_fill(~real[..., None], -20.0)
        args = (logits, queries.boxes, truth.classes, truth.boxes, count, real, truth.ignored)
        losses |= self.criterion.matched(*args, suffix="_enc")
        if noisy is not None and extra is not None:
            losses |= self.criterion.denoised(extra, noisy, truth.classes, truth.boxes, noisy_count)
        elif self.denoising is not None:
            # Every parameter takes part in every step, and every process names the same losses.
            losses |= self.criterion.nothing_denoised(len(own.logits), 0.0 * self.denoising.labels.weight.sum())
        if seen.routed is not None:
            losses |= seen.routed.losses
        self._log(queries, truth, seen.routed)
        return losses

    def _log(self, queries: _Queries, truth: _Truth, routed: Routed | None) -> None:
        storage = get_event_storage()
        used = queries.content.shape[1] if queries.padding is None else float((~queries.padding).sum(1).float().mean())
        storage.put_scalar("queries", used)
        storage.put_scalar("objects", sum(len(c) for c in truth.classes) / max(len(truth.classes), 1))
        if routed is not None:
            storage.put_scalars(**routed.statistics())

    def _detections(self, said: Decoded, padding: Tensor | None, sizes: Sequence[tuple[int, int]]) -> list[Instances]:
        """The best pairs of query and class of each image, by falling score."""
        scores = said.logits[-1].sigmoid()
        if padding is not None:
            scores = scores.masked_fill(padding[..., None], -1.0)
        results = []
        for score, box, size in zip(scores, said.boxes[-1], sizes, strict=True):
            flat = score.flatten()
            best = flat.argsort(descending=True, stable=True)[: self.max_detections]
            best = best[flat[best] > max(self.score_thresh, 0.0)]
            query, cls = best // score.shape[1], best % score.shape[1]
            boxes = Boxes(cxcywh_to_xyxy(box[query]) * box.new_tensor(size[::-1]).repeat(2))
            boxes.clip(size)
            whole = boxes.nonempty() & torch.isfinite(boxes.tensor).all(dim=1)
            results.append(Instances(size, pred_boxes=boxes[whole], scores=flat[best][whole], pred_classes=cls[whole]))
        return results
