"""Region proposal network with any assigner and any box loss.

Shapes: B images, N = Σ_levels H·W·A priors of an image in (level, row, column, anchor) order.
"""

from __future__ import annotations

import torch
from detectron2.config import configurable
from detectron2.layers import cat
from detectron2.modeling.box_regression import Box2BoxTransform
from detectron2.modeling.proposal_generator import PROPOSAL_GENERATOR_REGISTRY
from detectron2.modeling.proposal_generator.rpn import RPN
from detectron2.structures import Boxes, ImageList, Instances
from detectron2.utils.events import get_event_storage
from torch import Tensor, nn
from torch.nn import functional as F

from d2tiny.layers.folding import prepare_for_inference
from d2tiny.modeling.assigners import Assigner
from d2tiny.modeling.build import build_box_loss, build_rpn_assigner
from d2tiny.modeling.losses import BoxLoss, regression_loss
from d2tiny.modeling.priors import GridPriors, grid_from_generator
from d2tiny.modeling.targets import split_ignored
from d2tiny.ops.nms import batched_nms

__all__ = ["TinyRPN"]


@PROPOSAL_GENERATOR_REGISTRY.register()
class TinyRPN(RPN):
    """Detectron2's RPN with a label assigner, a box loss and ignore regions.

    Labels are assigned on the description of the anchor grids, so the cost does not grow with the image. Differences
    from Detectron2's RPN: anchors outside the image are removed before the assignment (there, after it, so that an
    object at the border may lose all its anchors); boxes are decoded only for the proposals that remain after top-k,
    and NMS runs level by level instead of on shifted coordinates.
    """

    @configurable
    def __init__(
        self,
        *,
        in_features: list[str],
        head: nn.Module,
        anchor_generator: nn.Module,
        assigner: Assigner,
        box_loss: BoxLoss,
        box2box_transform: Box2BoxTransform,
        batch_size_per_image: int = 256,
        positive_fraction: float = 0.5,
        pre_nms_topk: tuple[int, int] = (3000, 3000),
        post_nms_topk: tuple[int, int] = (3000, 3000),
        nms_thresh: float = 0.7,
        nms_metric: str = "iou",
        nwd_constant: float = 12.8,
        min_box_size: float = 0.0,
        anchor_boundary_thresh: float = -1.0,
        loss_weight: float | dict[str, float] = 1.0,
    ) -> None:
        """Put the parts together.

        Args:
            in_features: names of the pyramid levels, finest first.
            head: predicts objectness and deltas, for example ``StandardRPNHead``.
            anchor_generator: Detectron2's default one or :class:`RFAnchorGenerator`.
            assigner: labels the anchors.
            box_loss: on encoded deltas or decoded boxes, as its ``space`` says.
            box2box_transform: the box coder.
            batch_size_per_image: number of anchors of an image that are sampled for the loss.
            positive_fraction: largest fraction of positives among them.
            pre_nms_topk: proposals kept before NMS per level, (training, test).
            post_nms_topk: proposals kept after NMS per image, (training, test).
            nms_thresh: IoU or NWD above which the proposal with the lower score is removed.
            nms_metric: ``iou`` or ``nwd`` (with which a threshold of 0.85 is usual).
            nwd_constant: C of NWD, px.
            min_box_size: shortest side of a proposal in px.
            anchor_boundary_thresh: anchors farther outside the image than this, in px, are removed before the
                assignment, so that an object at the border gets the best of the others; −1 keeps all.
            loss_weight: a factor, or one for each of ``loss_rpn_cls`` and ``loss_rpn_loc``.

        Raises:
            ValueError: an unknown ``nms_metric``, or settings of NWD-NMS outside their range.
        """
        super().__init__(
            in_features=in_features,
            head=head,
            anchor_generator=anchor_generator,
            anchor_matcher=None,  # the assigner replaces it
            box2box_transform=box2box_transform,
            batch_size_per_image=batch_size_per_image,
            positive_fraction=positive_fraction,
            pre_nms_topk=tuple(pre_nms_topk),
            post_nms_topk=tuple(post_nms_topk),
            nms_thresh=nms_thresh,
            min_box_size=min_box_size,
            anchor_boundary_thresh=anchor_boundary_thresh,
            loss_weight=float(loss_weight) if isinstance(loss_weight, int | float) else loss_weight,
        )
        if nms_metric not in ("iou", "nwd"):
            raise ValueError(f"TinyRPN: nms_metric must be 'iou' or 'nwd', got {nms_metric!r}.")
        if nms_metric == "nwd" and (not 0 < nms_thresh < 1 or nwd_constant <= 0):
            raise ValueError(
                f"TinyRPN: NWD-NMS needs 0 < nms_thresh < 1 and nwd_constant > 0 px, got {nms_thresh}, {nwd_constant}."
            )
        self.assigner = assigner
        self.box_loss = box_loss
        self.nms_metric = nms_metric
        self.nwd_constant = nwd_constant
        prepare_for_inference(self)

    @classmethod
    def from_config(cls, cfg, input_shape):  # type: ignore[no-untyped-def]  # noqa: D102
        ret = super().from_config(cfg, input_shape)
        for name in ("anchor_matcher", "box_reg_loss_type", "smooth_l1_beta"):
            del ret[name]
        ret["assigner"] = build_rpn_assigner(cfg)
        ret["nms_metric"], ret["nwd_constant"] = cfg.MODEL.RPN.NMS_METRIC, cfg.MODEL.NWD.CONSTANT
        ret["box_loss"] = build_box_loss(
            cfg,
            cfg.MODEL.RPN.BBOX_REG_LOSS_TYPE,
            cfg.MODEL.RPN.SMOOTH_L1_BETA,
            "MODEL.RPN.BBOX_REG_LOSS_TYPE",
        )
        return ret

    @torch.no_grad()
    def label_and_sample_anchors(
        self, anchors: GridPriors, gt_instances: list[Instances]
    ) -> tuple[list[Tensor], list[Tensor]]:
        """Label the anchors of each image and sample a batch of them.

        Args:
            anchors: those of every image.
            gt_instances: ground truth of each image; ignore regions are where ``gt_ignore`` is set.

        Returns:
            For each image the labels (N,): 1, 0, or −1 (not sampled or ignored), and the matched boxes (N, 4), which
            are only defined for positives.
        """
        boxes = anchors.boxes()
        labels, matched_boxes = [], []
        for targets in gt_instances:
            objects, ignored = split_ignored(targets)
            gt_boxes = objects.gt_boxes.tensor
            priors = anchors.inside(targets.image_size, self.anchor_boundary_thresh)
            result = self.assigner(priors, gt_boxes, ignore_boxes=ignored)
            labels.append(self._subsample_labels(result.labels.clone()))
            if len(gt_boxes):
                matched_boxes.append(gt_boxes[result.matched_idxs.clamp(min=0)])
            else:
                matched_boxes.append(torch.zeros_like(boxes))
        return labels, matched_boxes

    def losses(
        self,
        anchors: GridPriors,
        pred_objectness_logits: list[Tensor],
        gt_labels: list[Tensor],
        pred_anchor_deltas: list[Tensor],
        gt_boxes: list[Tensor],
    ) -> dict[str, Tensor]:
        """Compute objectness loss and box loss over the sampled anchors of the batch.

        Args:
            anchors: those of every image.
            pred_objectness_logits: (B, H·W·A) of each level.
            gt_labels: (N,) of each image, of :meth:`label_and_sample_anchors`.
            pred_anchor_deltas: (B, H·W·A, 4) of each level.
            gt_boxes: (N, 4) of each image, matched boxes.

        Returns:
            ``loss_rpn_cls`` and ``loss_rpn_loc``.
        """
        num_images = len(gt_labels)
        labels = torch.stack(gt_labels)  # (B, N)
        positive, valid = labels == 1, labels >= 0
        storage = get_event_storage()
        storage.put_scalar("rpn/num_pos_anchors", positive.sum().item() / num_images)
        storage.put_scalar("rpn/num_neg_anchors", (labels == 0).sum().item() / num_images)

        logits = cat(pred_objectness_logits, dim=1)
        cls_loss = F.binary_cross_entropy_with_logits(logits[valid].float(), labels[valid].float(), reduction="sum")
        normalizer = self.batch_size_per_image * num_images
        image, index = positive.nonzero(as_tuple=True)
        loc_loss = regression_loss(
            self.box_loss,
            self.box2box_transform,
            cat(pred_anchor_deltas, dim=1)[image, index],
            anchors.boxes()[index],
            torch.stack(gt_boxes)[image, index],
            avg_factor=normalizer,
            groups=image,
        )
        losses = {
            "loss_rpn_cls": cls_loss / normalizer,
            "loss_rpn_loc": loc_loss,
        }
        return {name: loss * self.loss_weight.get(name, 1.0) for name, loss in losses.items()}

    def forward(
        self,
        images: ImageList,
        features: dict[str, Tensor],
        gt_instances: list[Instances] | None = None,
    ) -> tuple[list[Instances], dict[str, Tensor]]:
        """Predict proposals, and compute the losses in training.

        Args:
            images: of the batch; only their sizes are used.
            features: feature maps (B, C, H_l, W_l) by name.
            gt_instances: ground truth of each image, required in training.

        Returns:
            ``proposal_boxes`` and ``objectness_logits`` of each image by falling score, and the losses by name.

        Raises:
            ValueError: no ground truth in training.
            FloatingPointError: NaN or infinity in proposals in training.
        """
        maps = [features[name] for name in self.in_features]
        anchors = grid_from_generator(self.anchor_generator, maps)
        logits, deltas = self.rpn_head(maps)
        logits = [x.permute(0, 2, 3, 1).flatten(1) for x in logits]
        deltas = [
            x.view(x.shape[0], -1, 4, x.shape[-2], x.shape[-1]).permute(0, 3, 4, 1, 2).flatten(1, -2) for x in deltas
        ]
        losses: dict[str, Tensor] = {}
        if self.training:
            if gt_instances is None:
                raise ValueError("TinyRPN needs gt_instances in training.")
            labels, gt_boxes = self.label_and_sample_anchors(anchors, gt_instances)
            losses = self.losses(anchors, logits, labels, deltas, gt_boxes)
        return self.predict_proposals(anchors, logits, deltas, images.image_sizes), losses

    @torch.no_grad()
    def predict_proposals(
        self,
        anchors: GridPriors,
        pred_objectness_logits: list[Tensor],
        pred_anchor_deltas: list[Tensor],
        image_sizes: list[tuple[int, int]],
    ) -> list[Instances]:
        """Select the proposals of each image: top-k of each level, NMS inside each level, top-k of the image.

        Args:
            anchors: those of every image.
            pred_objectness_logits: (B, H·W·A) of each level.
            pred_anchor_deltas: (B, H·W·A, 4) of each level.
            image_sizes: (height, width) of each image in px; proposals are clipped to them.

        Returns:
            ``proposal_boxes`` and ``objectness_logits`` of each image by falling score.

        Raises:
            FloatingPointError: NaN or infinity in training.
        """
        pre_topk = self.pre_nms_topk[self.training]
        boxes_per_level, scores_per_level, level_ids = [], [], []
        for level, (priors, logits, deltas) in enumerate(
            zip(anchors.level_boxes, pred_objectness_logits, pred_anchor_deltas, strict=True)
        ):
            count = min(pre_topk, logits.shape[1])
            scores, index = logits.float().topk(count, dim=1)
            topk_deltas = deltas.gather(1, index[..., None].expand(-1, -1, 4)).float()
            boxes = self.box2box_transform.apply_deltas(topk_deltas.reshape(-1, 4), priors[index.reshape(-1)])
            boxes_per_level.append(boxes.view(len(logits), count, 4))
            scores_per_level.append(scores)
            level_ids.append(torch.full((count,), level, dtype=torch.int64, device=logits.device))
        all_boxes, all_scores = cat(boxes_per_level, dim=1), cat(scores_per_level, dim=1)
        levels = cat(level_ids)

        return [
            self._select_proposals(boxes, scores, levels, size)
            for boxes, scores, size in zip(all_boxes, all_scores, image_sizes, strict=True)
        ]

    def _select_proposals(
        self, boxes: Tensor, scores: Tensor, levels: Tensor, image_size: tuple[int, int]
    ) -> Instances:
        """Return the proposals of an image after clipping, NMS inside each level and top-k.

        Args:
            boxes: (n, 4) XYXY in px.
            scores: (n,) objectness logits.
            levels: (n,) int64, level of each box.
            image_size: (height, width) in px.
        """
        finite = torch.isfinite(boxes).all(dim=1) & torch.isfinite(scores)
        if self.training and not finite.all():
            raise FloatingPointError("Predicted proposals hold NaN or infinity.")
        clipped = Boxes(boxes[finite])
        clipped.clip(image_size)
        large = clipped.nonempty(threshold=self.min_box_size)
        boxes, scores, levels = clipped.tensor[large], scores[finite][large], levels[finite][large]
        keep = batched_nms(boxes, scores, levels, self.nms_thresh, metric=self.nms_metric, constant=self.nwd_constant)[
            : self.post_nms_topk[self.training]
        ]
        result = Instances(image_size)
        result.proposal_boxes = Boxes(boxes[keep])
        result.objectness_logits = scores[keep]
        return result
