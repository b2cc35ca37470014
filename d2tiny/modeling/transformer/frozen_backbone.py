"""Pretrained backbones that are never trained, and whose weights come from their source."""

from __future__ import annotations

import logging
import zlib
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from d2tiny.utils.errors import CheckpointError
from d2tiny.utils.weights import load_part

__all__ = ["RANDOM", "FrozenBackbone"]

RANDOM = "random"

logger = logging.getLogger(__name__)


class FrozenBackbone(nn.Module):
    """Feature maps of a pretrained model for images as the detector normalises them.

    The model stays in evaluation mode and gets no gradients, so that no optimizer has its parameters. Its weights come
    from their source whenever the detector is built; checkpoints have a digest of them instead, so that a detector does
    not go on with others unnoticed.

    Attributes:
        model: the pretrained model.
        in_checkpoint: whether checkpoints have its weights.
    """

    own_weights = True  # those that the detector starts from are not for what is inside
    scale: Tensor
    shift: Tensor
    digest: Tensor

    def __init__(
        self,
        model: nn.Module,
        *,
        weights: str = "",
        in_checkpoint: bool = False,
        name: str = "frozen",
        pixel_mean: Sequence[float] | None = None,
        pixel_std: Sequence[float] | None = None,
        input_format: str = "RGB",
    ) -> None:
        """Load the weights of a model.

        Args:
            model: maps images (B, 3, H, W) to a dict of feature maps. Its attributes ``pixel_mean`` and ``pixel_std``
                (RGB, 0 to 255) say how its images are normalised; without them, as those of the detector.
                ``size_divisibility`` says what their sides must be multiples of.
            weights: a checkpoint of the model; empty takes its attribute ``weights_url``. ``random`` leaves the model
                as it was built; its weights are in checkpoints then, because nothing else has them.
            in_checkpoint: keep the weights in checkpoints of the detector, which then work where the source cannot be
                reached.
            name: of the expert, for messages.
            pixel_mean: what the detector normalises images with, in the order of ``input_format``.
            pixel_std: likewise.
            input_format: order of the channels that the detector reads, ``RGB`` or ``BGR``.

        Raises:
            ValueError: no weights, or no ``pixel_mean`` and ``pixel_std`` for a model that has its own.
            CheckpointError: the weights cannot be fetched or read, or do not fit.
        """
        super().__init__()
        weights = weights or str(getattr(model, "weights_url", ""))
        if not weights:
            raise ValueError(f"expert '{name}': its backbone names no weights; give weights=FILE, or weights=random.")
        self.name, self.in_checkpoint, self.hidden = name, in_checkpoint or weights == RANDOM, False
        self.model = model.requires_grad_(False).eval()
        self._problem = "" if weights == RANDOM else self._load(weights)
        if not self.in_checkpoint:
            self.register_buffer("digest", torch.tensor([_digest(model)]))
        scale, shift = _renormalisation(model, pixel_mean, pixel_std, input_format, name)
        self.register_buffer("scale", scale, persistent=False)
        self.register_buffer("shift", shift, persistent=False)
        self._flip = input_format == "BGR"
        self._multiple = max(1, int(getattr(model, "size_divisibility", 1)))
        self._register_state_dict_hook(_leave_out)
        self._register_load_state_dict_pre_hook(_bring_own, with_module=True)

    def _load(self, weights: str) -> str:
        """Load the weights; return why that failed, where a checkpoint may still bring them."""
        try:
            load_part(self.model, weights)
        except CheckpointError as err:
            problem = (
                f"expert '{self.name}' has no weights: {err} For random ones, set weights=random in the config of "
                "the expert."
            )
            if not self.in_checkpoint:
                raise CheckpointError(problem) from err
            logger.warning("%s A checkpoint of the detector must bring them.", problem)
            return problem
        return ""

    def train(self, mode: bool = True) -> FrozenBackbone:
        """Do nothing: the model stays in evaluation mode."""
        return self

    @torch.no_grad()
    def forward(self, image: Tensor) -> tuple[dict[str, Tensor], tuple[int, int]]:
        """Compute the feature maps of images.

        Args:
            image: (B, 3, H, W) as the detector normalised it.

        Returns:
            The maps, and the height and width in px that they cover: those of the image, rounded up to what the model
            takes.

        Raises:
            CheckpointError: nothing has brought weights.
        """
        if self._problem:
            raise CheckpointError(self._problem)
        image = (image.flip(1) if self._flip else image) * self.scale + self.shift
        height, width = (-(-side // self._multiple) * self._multiple for side in image.shape[-2:])
        padded = F.pad(image, (0, width - image.shape[-1], 0, height - image.shape[-2]))
        return self.model(padded), (height, width)


def _leave_out(module: FrozenBackbone, state: dict[str, Any], prefix: str, _: Any) -> None:
    """Take the weights out of a state dict that is being made."""
    if not module.in_checkpoint or module.hidden:
        for key in [key for key in state if key.startswith(f"{prefix}model.")]:
            del state[key]


def _bring_own(module: FrozenBackbone, state: dict[str, Any], prefix: str, *_: Any) -> None:
    """Put the weights into a state dict that is being loaded, after a look at the digest of those it was made with."""
    own = {f"{prefix}model.{key}": value for key, value in module.model.state_dict().items()}
    if module.in_checkpoint and not module.hidden:
        if own.keys() <= state.keys():
            module._problem = ""
        return
    digest = state.get(f"{prefix}digest")
    if digest is not None and not module.in_checkpoint and digest.tolist() != [_digest(module.model)]:
        raise CheckpointError(
            f"expert '{module.name}': the checkpoint was trained with other weights of this expert than those that "
            "were loaded now; name them by `weights` in the config of the expert."
        )
    state.update(own)


def _digest(model: nn.Module) -> int:
    """Return a checksum of all tensors of a model."""
    result = 0
    for _, value in sorted(model.state_dict().items()):
        result = zlib.crc32(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy(), result)
    return result


def _renormalisation(
    model: nn.Module,
    pixel_mean: Sequence[float] | None,
    pixel_std: Sequence[float] | None,
    input_format: str,
    name: str,
) -> tuple[Tensor, Tensor]:
    """Return factor and summand (3, 1, 1) that bring images from the detector's normalisation to the model's."""
    own_mean, own_std = getattr(model, "pixel_mean", None), getattr(model, "pixel_std", None)
    if own_mean is None or own_std is None:
        return torch.ones(3, 1, 1), torch.zeros(3, 1, 1)
    if pixel_mean is None or pixel_std is None:
        raise ValueError(
            f"expert '{name}': its backbone normalises images itself, and must know how the detector did; give "
            "pixel_mean and pixel_std of the detector."
        )
    mean, std = (torch.tensor(list(values), dtype=torch.float64) for values in (pixel_mean, pixel_std))
    if input_format == "BGR":
        mean, std = mean.flip(0), std.flip(0)
    target_mean, target_std = (torch.tensor(list(values), dtype=torch.float64) for values in (own_mean, own_std))
    scale, shift = std / target_std, (mean - target_mean) / target_std
    return scale.float().view(3, 1, 1), shift.float().view(3, 1, 1)
