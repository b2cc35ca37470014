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

from d2tiny.layers.contrast import norms_for
from d2tiny.layers.folding import prepare_for_inference
from d2tiny.layers.position import PositionEmbeddingSine
from d2tiny.modeling.contracts import QueryPredictions, Targets
from d2tiny.modeling.meta_arch.dino_checks import check_classes, check_levels, check_modules, strides_for
from d2tiny.modeling.meta_arch.dino_explanation import Explanation
from d2tiny.modeling.meta_arch.inputs import require_batch
from d2tiny.modeling.meta_arch.pictures import check_period, picture_is_due, put_detections, put_queries
from d2tiny.modeling.targets import split_ignored
from d2tiny.modeling.transformer import (
    REM,
    DecoderOutput,
    DeformableEncoder,
    Denoising,
    DenoisingQueries,
    DensityQueries,
    DensityTarget,
    DINOCriterion,
    DINODecoder,
    InitialQueries,
    QuerySelection,
    RoutingOutput,
    Tokens,
    flatten_maps,
    has_padding,
    padding_masks,
    ratios_of_strides,
)
from d2tiny.modeling.transformer.density_map import count_objects
from d2tiny.ops.boxes import cxcywh_to_xyxy, xyxy_to_cxcywh

__all__ = ["TinyDINO"]


@dataclass(frozen=True)
class _EncoderOutput:
    """Inputs of the decoder, and what led to them.

    Attributes:
        tokens: inputs of the encoder.
        memory: (B, S, C), output of the encoder.
        queries: matching queries.
        density: (B, H, W) objects per cell of the finest level; None without DGQ.
        density_targets: what it should be, for each image; None without DGQ, and in tests.
        class_logits: (B, classes) of the number of objects; None without a classifier.
        updated: (B, S) boolean, tokens that the encoder has updated; None for all.
        routing: decisions of REM; None without it.
    """

    tokens: Tokens
    memory: Tensor
    queries: InitialQueries
    density: Tensor | None = None
    density_targets: list[DensityTarget] | None = None
    class_logits: Tensor | None = None
    updated: Tensor | None = None
    routing: RoutingOutput | None = None


@META_ARCH_REGISTRY.register()
class TinyDINO(nn.Module):
    """Detection transformer: deformable encoder, queries from its best tokens, decoder; no NMS.

    Without ``density`` and ``routing`` it is DINO (Zhang et al., ICLR 2023); with both it is ScaleBridge-Det. As in
    DINO, one query may give detections of several classes with the same box.
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
        embed_dim: int = 256,
        denoising: Denoising | None = None,
        density: DensityQueries | None = None,
        routing: REM | None = None,
        temperature: float = 20.0,
        position_offset: float = 0.0,
        cell_unit: str | None = None,
        max_detections: int = 1500,
        score_thresh: float = 0.0,
        input_format: str = "RGB",
        vis_period: int = 0,
    ) -> None:
        """Assemble the detector.

        Args:
            backbone: with a :class:`~d2tiny.modeling.necks.ChannelMapper`, all of whose levels have ``embed_dim``
                channels.
            in_features: names of the backbone's levels, finest first.
            num_classes: K, number of classes.
            encoder: encoder of all levels.
            selection: selects the queries.
            decoder: decoder of the queries.
            criterion: losses.
            pixel_mean: mean of each channel in the range of the input, 0 to 255.
            pixel_std: standard deviation of each channel, likewise.
            embed_dim: C, channels of all levels.
            denoising: makes the denoising queries in training; None for none.
            density: density-guided queries (DGQ), which choose number and positions of the queries.
            routing: routed mixture attention (REM), which mixes experts into the levels.
            temperature: of the sine position embedding.
            position_offset: of its rows and columns, see :class:`~d2tiny.layers.position.PositionEmbeddingSine`.
            cell_unit: ``stride`` for cells of as many px as the stride of their level; None for released DETRs' form,
                which misplaces what lies at the edge of images whose sides are no multiples of the strides
                (:func:`~d2tiny.modeling.transformer.tokens.ratios_of_strides`).
            max_detections: largest number of detections of an image.
            score_thresh: detections have a score above this, in [0, 1).
            input_format: order of the channels, for visualisation.
            vis_period: iterations between two pictures in the event storage: ground truth beside detections, and where
                queries start; 0 for none.

        Raises:
            ValueError: components that do not fit together, levels without the strides that ``cell_unit``
                needs, or a setting outside its range.
        """
        super().__init__()
        check_modules(density=density, routing=routing)
        check_levels(backbone, in_features, embed_dim, encoder=encoder, decoder=decoder)
        check_classes(num_classes, selection=selection, decoder=decoder, denoising=denoising)
        if max_detections < 1 or not 0 <= score_thresh < 1:
            raise ValueError(
                f"TinyDINO: max_detections={max_detections} must be at least 1, score_thresh={score_thresh} in [0, 1)."
            )
        if density is not None and density.buckets[-1] > selection.num_queries:
            raise ValueError(
                f"TinyDINO: density.buckets go up to {density.buckets[-1]}, but "
                f"selection.num_queries={selection.num_queries}."
            )
        if encoder.sparsity is not None and (density is None or density.source != "neck"):
            raise ValueError(
                "TinyDINO: encoder.sparsity needs a density that is known before the encoder: density with "
                "source='neck' (in a config, dgq(model, source='neck'))."
            )
        if density is not None and len(density.head.lateral) > len(in_features):
            raise ValueError(
                f"TinyDINO: density.num_levels={len(density.head.lateral)}, but there are {len(in_features)} levels."
            )
        self.backbone, self.head_in_features = backbone, list(in_features)
        self.encoder, self.selection, self.decoder, self.criterion = encoder, selection, decoder, criterion
        self.denoising, self.density, self.routing = denoising, density, routing
        self.num_classes, self.max_detections, self.score_thresh = num_classes, max_detections, score_thresh
        check_period("TinyDINO", vis_period)
        self.input_format, self.vis_period = input_format, vis_period
        self.cell_unit, self.strides = cell_unit, strides_for(cell_unit, backbone, in_features)
        self.position = PositionEmbeddingSine(embed_dim // 2, temperature, position_offset)
        self.level_embed = nn.Parameter(torch.randn(len(in_features), embed_dim))
        self.register_buffer("pixel_mean", torch.tensor(list(pixel_mean)).view(-1, 1, 1), persistent=False)
        self.register_buffer("pixel_std", torch.tensor(list(pixel_std)).view(-1, 1, 1), persistent=False)
        prepare_for_inference(self)

    @property
    def device(self) -> torch.device:
        """Device of the parameters."""
        mean: Any = self.pixel_mean
        device: torch.device = mean.device
        return device

    def forward(self, batched_inputs: list[dict[str, Any]]) -> Any:
        """Return a dict of losses in training, else detections in Detectron2's format."""
        images = self._preprocess(batched_inputs)
        if self.training:
            targets = self._targets([item["instances"].to(self.device) for item in batched_inputs])
            with norms_for(self, [item["image"] for item in batched_inputs]):
                encoded = self._encode(images, targets)
                return self._losses(encoded, targets, images.image_sizes, batched_inputs[0])
        encoded = self._encode(images, None)
        _, outputs = self.decode(encoded, None)
        results = self._detections(outputs.layers[-1], encoded.queries.padding_mask, images.image_sizes)
        return [
            {"instances": detector_postprocess(r, item.get("height", size[0]), item.get("width", size[1]))}
            for r, item, size in zip(results, batched_inputs, images.image_sizes, strict=True)
        ]

    @torch.no_grad()
    def explain(self, batched_input: dict[str, Any]) -> Explanation:
        """Return what DGQ and REM decide for one image, for pictures; the model must be in evaluation mode.

        Args:
            batched_input: an input of the model, with ``image`` (3, H, W).
        """
        images = self._preprocess([batched_input])
        encoded = self._encode(images, None)
        tokens, density, routing = encoded.tokens, encoded.density, encoded.routing
        height, width = images.image_sizes[0]
        queries = encoded.queries
        valid = slice(None) if queries.valid_mask is None else queries.valid_mask[0]
        sizes = [tokens.valid_sizes(level)[0] for level in range(len(tokens.spatial_shapes))]
        chosen = None if encoded.updated is None else tokens.maps(encoded.updated[..., None])
        num_objects, class_count = None, None
        if self.density is not None and density is not None:
            num_objects = int(count_objects(density, self.density.threshold))
            class_count = self.density.expected_count(encoded.class_logits)
        return Explanation(
            density=None if density is None else density[0, : sizes[0][0], : sizes[0][1]],
            num_objects=num_objects,
            class_count=class_count,
            tokens=None if chosen is None else [m[0, 0, :h, :w] for m, (h, w) in zip(chosen, sizes, strict=True)],
            reference_points=queries.reference_boxes[0, valid, :2] * tokens.features.new_tensor((width, height)),
            is_peak=None if queries.is_peak is None else queries.is_peak[0, valid],
            routing_weights=None
            if routing is None
            else [pi[0, :, :h, :w] for pi, (h, w) in zip(routing.routing_weights, sizes, strict=True)],
            categories={} if self.routing is None else self.routing.by_category(),
        )

    def _preprocess(self, batched_inputs: list[dict[str, Any]]) -> ImageList:
        """Normalise the images and pad them to one size."""
        require_batch(self, batched_inputs)
        images = [(item["image"].to(self.device) - self.pixel_mean) / self.pixel_std for item in batched_inputs]
        return ImageList.from_tensors(images, self.backbone.size_divisibility)

    def _targets(self, instances: Sequence[Instances]) -> Targets:
        """Convert ground truth to shares of the images, without objects that have no area."""
        labels, boxes, ignore_boxes = [], [], []
        for image in instances:
            objects, regions = split_ignored(image)
            gt_boxes = objects.gt_boxes.tensor
            nonempty = ((gt_boxes[:, 2:] - gt_boxes[:, :2]) > 0).all(dim=1)
            scale = gt_boxes.new_tensor(image.image_size[::-1]).repeat(2)
            labels.append(objects.gt_classes[nonempty])
            boxes.append(xyxy_to_cxcywh(gt_boxes[nonempty]) / scale)
            ignore_boxes.append(xyxy_to_cxcywh(regions) / scale)
        return Targets(labels, boxes, ignore_boxes)

    def _encode(self, images: ImageList, targets: Targets | None) -> _EncoderOutput:
        """Compute all inputs of the decoder; in training with the objects of the images."""
        tokens, routing = self._tokens(images)
        return self.encode_tokens(tokens, routing, targets)

    def encode_tokens(
        self, tokens: Tokens, routing: RoutingOutput | None, targets: Targets | None = None
    ) -> _EncoderOutput:
        """Encode tokens and select the queries; in training with the objects of the images."""
        if self.density is None:
            memory = self.encoder(tokens)
            proposals = self.selection.propose(memory, tokens)
            queries = self.selection.initial_queries(proposals, self.selection.select(proposals))
            return _EncoderOutput(tokens, memory, queries, routing=routing)
        density, updated = None, None
        truth = None if targets is None else self.density.targets(tokens, targets)
        if self.density.source == "neck":
            density = self.density.predict_density(tokens.features, tokens)
            updated = self._updated_tokens(density.detach(), tokens, truth)
        memory = self.encoder(tokens, updated)
        proposals = self.selection.propose(memory, tokens, updated)
        density = self.density.predict_density(memory, tokens) if density is None else density
        class_logits = self.density.classify(memory, tokens)
        gt_counts = None if targets is None else [len(labels) for labels in targets.labels]
        selected = self.density.select(proposals, density.detach(), gt_counts, class_logits)
        queries = self.selection.initial_queries(proposals, selected, plain_peaks=self.density.plain_peaks)
        return _EncoderOutput(tokens, memory, queries, density, truth, class_logits, updated, routing)

    @torch.no_grad()
    def _updated_tokens(self, density: Tensor, tokens: Tokens, truth: list[DensityTarget] | None) -> Tensor | None:
        """Choose the tokens that the encoder updates, (B, S) boolean; None without sparsity."""
        if self.encoder.sparsity is None:
            return None
        return self.encoder.sparsity.choose(density, tokens, None if truth is None else [t.density for t in truth])

    def _tokens(self, images: ImageList) -> tuple[Tokens, RoutingOutput | None]:
        """Compute the levels of the backbone, mix experts into them, and flatten them."""
        levels = self.levels(images.tensor)
        height, width = images.tensor.shape[-2:]
        sizes = torch.stack([torch.as_tensor(size, device=images.tensor.device) for size in images.image_sizes])
        masks = padding_masks(sizes, (height, width), levels, self.strides)
        padded = has_padding(images.image_sizes, (height, width), levels[0], self.strides[0] if self.strides else None)
        return self.tokens_of_levels(images.tensor, levels, masks, sizes, has_padding=padded)

    def levels(self, image: Tensor) -> list[Tensor]:
        """Return the levels of the backbone, finest first."""
        features = self.backbone(image)
        return [features[name] for name in self.head_in_features]

    def tokens_of_levels(
        self, image: Tensor, levels: list[Tensor], masks: list[Tensor], sizes: Tensor, *, has_padding: bool
    ) -> tuple[Tokens, RoutingOutput | None]:
        """Mix experts into levels, and flatten them.

        Args:
            image: (B, 3, H, W), normalised and padded.
            levels: L feature maps of it.
            masks: their L padding masks.
            sizes: (B, 2) height and width of each image in px.
            has_padding: False if no cell is padding.
        """
        routing = None
        if self.routing is not None:
            levels, routing = self.routing(levels, masks, image)
        positions = [self.position(mask) for mask in masks]
        ratios = None if self.strides is None else ratios_of_strides(sizes, self.strides, levels)
        tokens = flatten_maps(levels, positions, masks, self.level_embed, has_padding=has_padding, valid_ratios=ratios)
        return tokens, routing

    def decode(
        self, encoded: _EncoderOutput, denoising: DenoisingQueries | None
    ) -> tuple[DecoderOutput, DecoderOutput]:
        """Decode denoising queries (if any) and matching queries together, and return the outputs of both."""
        queries = encoded.queries
        content, reference_boxes, num_denoising = queries.content, queries.reference_boxes, 0
        attn_mask = None
        if denoising is not None:
            num_denoising = denoising.content.shape[1]
            content = torch.cat((denoising.content.to(content.dtype), content), dim=1)
            reference_boxes = torch.cat((denoising.reference_boxes, reference_boxes), dim=1)
            attn_mask = denoising.attn_mask
        if queries.padding_mask is not None:
            unpadded = queries.padding_mask.new_zeros(content.shape[0], num_denoising)
            key_padding_mask = torch.cat((unpadded, queries.padding_mask), dim=1)[:, None]
            attn_mask = key_padding_mask if attn_mask is None else key_padding_mask | attn_mask[None]
            attn_mask = attn_mask.expand(-1, content.shape[1], -1)
        outputs = self.decoder(content, reference_boxes, encoded.memory, encoded.tokens, attn_mask)
        return outputs.split(num_denoising)

    def _losses(
        self,
        encoded: _EncoderOutput,
        targets: Targets,
        image_sizes: Sequence[tuple[int, int]],
        first: dict[str, Any],
    ) -> dict[str, Tensor]:
        losses: dict[str, Tensor] = {}
        queries, valid_mask = encoded.queries, encoded.queries.valid_mask
        if self.density is not None and encoded.density is not None and encoded.density_targets is not None:
            losses |= self.density.losses(encoded.density, encoded.density_targets, encoded.class_logits)
        denoising = None
        if self.denoising is not None:
            denoising = self.denoising(targets, queries.content.shape[1])
        # all processes must take part in this mean, also those whose images have no objects
        num_positives = 0 if denoising is None else len(denoising.indices.query_idx)
        num_boxes, num_denoised = self.criterion.num_boxes(targets, num_positives)
        denoising_outputs, outputs = self.decode(encoded, denoising)
        losses |= self.criterion.decoder_losses(outputs, targets, num_boxes, valid_mask)
        losses |= self.criterion.encoder_losses(_with_finite_logits(queries), targets, num_boxes, valid_mask)
        if denoising is not None:
            losses |= self.criterion.denoising_losses(denoising_outputs, denoising, targets, num_denoised)
        elif self.denoising is not None:
            # distributed training needs the same losses from every process, and a gradient for every parameter
            zero = 0.0 * self.denoising.label_embedding.weight.sum()
            losses |= self.criterion.zero_denoising_losses(len(outputs.pred_logits), zero)
        if encoded.routing is not None and self.routing is not None:
            losses |= encoded.routing.losses
            if self.routing.scale_weight:  # sizes in cells wait for the device
                losses |= self.routing.scale_losses(encoded.routing, targets, encoded.tokens, image_sizes)
        self._log(encoded, targets)
        if picture_is_due(self.vis_period):
            self._draw(first, encoded, outputs.layers[-1])
        return losses

    @torch.no_grad()
    def _draw(self, first: dict[str, Any], encoded: _EncoderOutput, predictions: QueryPredictions) -> None:
        """Hand pictures of the first image of a batch to the event storage."""
        height, width = first["image"].shape[-2:]
        mask, density = encoded.queries.padding_mask, encoded.density
        own = QueryPredictions(predictions.pred_logits[:1].float(), predictions.pred_boxes[:1].float())
        found = self._detections(own, None if mask is None else mask[:1], [(height, width)])[0]
        put_detections(first, found, self.input_format)
        points = encoded.queries.reference_boxes[0, :, :2]
        points = (points if mask is None else points[~mask[0]]) * points.new_tensor((width, height))
        rows, columns = encoded.tokens.valid_sizes(0)[0]
        put_queries(first, points, None if density is None else density[0, :rows, :columns], self.input_format)

    def _log(self, encoded: _EncoderOutput, targets: Targets) -> None:
        """Log mean numbers of an image, the error of the count, and the experts' mean shares."""
        storage, queries = get_event_storage(), encoded.queries
        valid_mask = queries.valid_mask
        used = queries.content.shape[1] if valid_mask is None else float(valid_mask.sum(1).float().mean())
        storage.put_scalar("queries", used)
        storage.put_scalar("objects", sum(map(len, targets.labels)) / max(len(targets.labels), 1))
        if encoded.updated is not None:
            share = encoded.updated.sum() / (~encoded.tokens.key_padding_mask).sum()
            storage.put_scalar("tokens", float(share))
        if self.density is not None and encoded.density is not None and encoded.density_targets is not None:
            self.density.log(storage, encoded.density.detach(), encoded.density_targets, encoded.class_logits)
        if encoded.routing is not None:
            storage.put_scalars(**encoded.routing.statistics())

    def _detections(
        self, predictions: QueryPredictions, padding_mask: Tensor | None, image_sizes: Sequence[tuple[int, int]]
    ) -> list[Instances]:
        """Return the pairs of query and class with the best scores of each image, best first."""
        scores = predictions.pred_logits.sigmoid()
        if padding_mask is not None:
            scores = scores.masked_fill(padding_mask[..., None], -1.0)
        results = []
        for score, box, size in zip(scores, predictions.pred_boxes, image_sizes, strict=True):
            flat = score.flatten()
            topk = flat.argsort(descending=True, stable=True)[: self.max_detections]
            topk = topk[flat[topk] > max(self.score_thresh, 0.0)]
            query_idx, classes = topk // score.shape[1], topk % score.shape[1]
            height, width = size
            boxes = Boxes(cxcywh_to_xyxy(box[query_idx]) * box.new_tensor((width, height, width, height)))
            boxes.clip(size)
            keep = boxes.nonempty() & torch.isfinite(boxes.tensor).all(dim=1)
            kept = {"pred_boxes": boxes[keep], "scores": flat[topk][keep], "pred_classes": classes[keep]}
            results.append(Instances(size, **kept))
        return results


def _with_finite_logits(queries: InitialQueries) -> QueryPredictions:
    """Return the encoder's predictions with finite logits for padding queries, whose tokens have logits of −∞."""
    predictions = queries.predictions
    if queries.padding_mask is None:
        return predictions
    logits = predictions.pred_logits.masked_fill(queries.padding_mask[..., None], -20.0)
    return QueryPredictions(logits, predictions.pred_boxes)
