"""Task-aligned assignment (Feng et al., TOOD, 2021) as YOLO11 has it, and a way for the tiniest objects."""

from __future__ import annotations

import torch
from torch import Tensor

from d2tiny.modeling.assigners.base import (
    Assigner,
    AssignResult,
    Predictions,
    Priors,
    Winners,
    need_predictions,
    one_each,
    searchable,
)
from d2tiny.ops.boxes import aligned_ciou, xyxy_to_cxcywh
from d2tiny.ops.gaussian import Score
from d2tiny.ops.matches import Matches, keep_topk, max_score_per_gt
from d2tiny.ops.prior_search import priors_above
from d2tiny.utils.registry import ASSIGNER_REGISTRY

__all__ = ["TALAssigner"]

_INSIDE = 1e-9  # px, as in the released code


@ASSIGNER_REGISTRY.register()
class TALAssigner(Assigner):
    """An object takes the ``topk`` best aligned of the places inside it: ``score^α · max(CIoU, 0)^β``.

    A place that several chose goes to the object with the largest CIoU among all that it lies in. ``quality`` is what
    the class is to learn: ``align / max align of the object · max CIoU of the object``, over its places.

    **Tiny objects.** An object under 8 px may contain no place of the finest level (stride 8) and then learns nothing.
    ``min_candidate_size`` widens objects to that many px, about their centres, for the choice of candidates only.

    Candidates are searched part by part on the grid: no matrix of objects and places is ever held.

    Differences from the released code: places with alignment 0 are no positives (they have target and weight 0 there);
    equal alignments have a defined order.
    """

    def __init__(
        self,
        *,
        topk: int = 10,
        alpha: float = 0.5,
        beta: float = 6.0,
        min_candidate_size: float = 0.0,
        ignore_iof_thresh: float = 0.5,
    ) -> None:
        """Set the rule.

        Args:
            topk: places of an object.
            alpha: exponent of the class score.
            beta: exponent of the CIoU.
            min_candidate_size: px, see above; 0 is the released rule, the finest stride (8) is advised.
            ignore_iof_thresh: see :class:`Assigner`.

        Raises:
            ValueError: a setting outside its range.
        """
        super().__init__(ignore_iof_thresh=ignore_iof_thresh)
        if topk < 1 or alpha < 0 or beta < 0 or min_candidate_size < 0:
            raise ValueError(
                "TALAssigner: need topk >= 1, alpha >= 0, beta >= 0, min_candidate_size >= 0, got "
                f"{topk}, {alpha}, {beta}, {min_candidate_size}."
            )
        self.topk, self.alpha, self.beta = topk, alpha, beta
        self.min_candidate_size = min_candidate_size

    def _assign(self, priors: Priors, gt_boxes: Tensor, predictions: Predictions | None) -> AssignResult:
        said, num_priors = need_predictions("TALAssigner", predictions), len(priors)
        gts = xyxy_to_cxcywh(gt_boxes)
        # A hair wider, so that an object in the middle between places reaches both.
        widened = torch.where(gts[:, 2:] < self.min_candidate_size, self.min_candidate_size * (1 + 1e-6), gts[:, 2:])
        contest, parts = Winners(num_priors, gt_boxes.device), []
        for pairs in priors_above(searchable(priors), torch.cat((gts[:, :2], widened), dim=1), _inside(), _INSIDE):
            overlap, align = self._alignment(said, gt_boxes, pairs)
            contest.add(Matches(pairs.gt, pairs.prior, overlap))
            parts.append(keep_topk(Matches(pairs.gt, pairs.prior, align).keep(align > 0), self.topk))
        chosen = keep_topk(Matches.cat(parts, gt_boxes.device), self.topk)
        matched = one_each(chosen, contest, num_priors)
        prior = (matched >= 0).nonzero().flatten()
        won = Matches(matched[prior], prior, torch.zeros_like(prior, dtype=torch.float64))
        overlap, align = self._alignment(said, gt_boxes, won)
        top_align = max_score_per_gt(Matches(won.gt, prior, align), len(gts))
        top_overlap = max_score_per_gt(Matches(won.gt, prior, overlap), len(gts))
        quality = torch.zeros(num_priors, device=gt_boxes.device)
        quality[prior] = (align / top_align[won.gt].clamp(min=1e-300) * top_overlap[won.gt]).float()
        return AssignResult(matched, (matched >= 0).to(torch.int8), quality)

    def _alignment(self, said: Predictions, gt_boxes: Tensor, pairs: Matches) -> tuple[Tensor, Tensor]:
        """(P,) CIoU, at least 0, and alignment; in float64, where small powers do not vanish."""
        overlap = aligned_ciou(said.boxes[pairs.prior].double(), gt_boxes[pairs.gt]).clamp(min=0)
        score = said.scores[pairs.prior, said.gt_classes[pairs.gt]].double()
        return overlap, score**self.alpha * overlap**self.beta


def _inside() -> Score:
    """How far a place is inside an object, px."""

    def inside(dx: Tensor, dy: Tensor, pw: Tensor, ph: Tensor, gw: Tensor, gh: Tensor) -> Tensor:
        return torch.minimum(gw / 2 - dx.abs(), gh / 2 - dy.abs()) + 0 * pw

    def largest(dx: Tensor, dy: Tensor, w_low: Tensor, w: Tensor, h_low: Tensor, h: Tensor, *gt: Tensor) -> Tensor:
        return inside(dx, dy, w, h, *gt)

    return Score(inside, largest)
