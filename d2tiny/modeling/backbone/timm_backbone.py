"""Models of timm as backbones."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from detectron2.layers import ShapeSpec
from detectron2.modeling.backbone import Backbone
from torch import Tensor, nn

from d2tiny.layers.depthwise import keep_depthwise_float32
from d2tiny.utils.errors import ConfigError, did_you_mean
from d2tiny.utils.timm_weights import PACKAGED, TIMM_PREFIX, import_timm

__all__ = ["TimmBackbone"]

STAGES = {"res2": 4, "res3": 8, "res4": 16, "res5": 32}  # names of Detectron2's ResNet, and their strides
NORMS = ("FrozenBN", "BN")

logger = logging.getLogger(__name__)


class TimmBackbone(Backbone):
    """A model of timm without its classifier, with feature maps of strides 4 to 32.

    It fits under every neck and detector that takes Detectron2's ResNet. Its ImageNet weights are loaded as a
    checkpoint: ``train.init_checkpoint=timm://NAME`` (or ``MODEL.WEIGHTS`` in YAML), from an installed package, from
    timm's hub, or, with ``timm://NAME?checkpoint=FILE``, from a file.

    Attributes:
        pixel_mean: RGB mean of the images that the weights were trained with, 0 to 255.
        pixel_std: likewise, the standard deviation.
    """

    def __init__(
        self,
        model_name: str,
        *,
        out_features: Sequence[str] = tuple(STAGES),
        freeze_at: int = 0,
        norm: str = "FrozenBN",
        drop_path_rate: float = 0.0,
        **kwargs: Any,
    ) -> None:
        """Build the model with random weights.

        Args:
            model_name: as in ``timm.list_models()``.
            out_features: names of the feature maps to return, of ``res2`` … ``res5`` (strides 4 … 32).
            freeze_at: stages that are not trained, as in Detectron2's ResNet: 1 freezes the stem, 2 also ``res2``, …,
                5 everything. Their batch norms are frozen too, and they run without gradients.
            norm: ``FrozenBN`` freezes statistics and affine parts of all batch norms, ``BN`` trains them; models with
                other norms are not changed.
            drop_path_rate: probability that a block is skipped in training, 0 to below 1.
            **kwargs: handed on to ``timm.create_model``.

        Raises:
            ConfigError: a setting with another value, an unknown model, or one without these strides.
            CheckpointError: timm is not installed.
        """
        super().__init__()
        _check(out_features, freeze_at, norm, drop_path_rate)
        if drop_path_rate:
            kwargs["drop_path_rate"] = drop_path_rate
        timm = import_timm()
        if not timm.is_model(model_name):
            raise ConfigError(f"model_name: timm has no '{model_name}'. {did_you_mean(model_name, timm.list_models())}")
        kwargs = _any_size(timm, model_name, kwargs)
        kwargs["out_indices"] = _indices(timm, model_name, kwargs)
        self.body = timm.create_model(model_name, pretrained=False, features_only=True, **kwargs)
        channels = self.body.feature_info.channels()
        self._shapes = {
            name: ShapeSpec(channels=int(count), stride=stride)
            for (name, stride), count in zip(STAGES.items(), channels, strict=True)
        }
        self._out_features = tuple(name for name in STAGES if name in out_features)
        self._channels_last = str(getattr(self.body, "output_fmt", "NCHW")).endswith("NHWC")
        self.pixel_mean, self.pixel_std = _normalisation(timm, model_name)
        self._freeze(freeze_at, norm)
        if keep_depthwise_float32(self.body) and torch.empty(0).device.type != "meta":
            logger.info("%s: under autocast on a CPU its depth-wise convolutions stay in float32.", model_name)

    def _freeze(self, freeze_at: int, norm: str) -> None:
        """Freeze the first stages, and batch norms; parameters are in the order in which they are used."""
        from timm.utils.model import freeze_batch_norm_2d

        frozen = _first_parameters(self.body, freeze_at)
        for name, parameter in self.body.named_parameters():
            if name in frozen:
                parameter.requires_grad_(False)
        if norm == "FrozenBN":
            self.body = freeze_batch_norm_2d(self.body)
            return
        for parent in list(self.body.modules()):
            for name, child in list(parent.named_children()):
                trained = [p.requires_grad for p in child.parameters(recurse=False)]
                if isinstance(child, nn.modules.batchnorm._BatchNorm) and trained and not any(trained):
                    setattr(parent, name, freeze_batch_norm_2d(child))

    @property
    def size_divisibility(self) -> int:
        """Pixels that the padded height and width must be a multiple of: the largest stride."""
        return 32

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        """Map (B, 3, H, W) to the feature maps of ``out_features``, (B, C, H / stride, W / stride)."""
        maps = self.body(image)
        if self._channels_last:
            maps = [x.permute(0, 3, 1, 2).contiguous() for x in maps]
        return {name: x for name, x in zip(STAGES, maps, strict=True) if name in self._out_features}

    def output_shape(self) -> dict[str, ShapeSpec]:
        """Return channels and stride of each stage of ``out_features``."""
        return {name: self._shapes[name] for name in self._out_features}

    def adapt_state(self, state: dict[str, Any], prefix: str) -> set[str]:
        """Take the weights of ``timm://NAME`` into a state dict that is being loaded, in place.

        Args:
            state: the checkpoint's tensors by name.
            prefix: of this module's own tensors.

        Returns:
            The names that were taken.

        Raises:
            ValueError: they are of another model.
        """
        taken = {key for key in state if key.startswith(TIMM_PREFIX)}
        own = self.body.state_dict()
        known = {key: key.removeprefix(TIMM_PREFIX) for key in taken}
        _require_same(own, {known[key]: state[key] for key in taken})
        for key in taken:
            if known[key] in own:
                state[f"{prefix}body.{known[key]}"] = state[key]
        return taken


def _require_same(own: Mapping[str, Tensor], given: Mapping[str, Tensor]) -> None:
    """Raise unless tensors are those of the model; counters of batches and parts behind its last stage may differ."""
    if not given:
        return
    wrong = [key for key in own if key not in given or given[key].shape != own[key].shape]
    wrong = [key for key in wrong if not key.endswith("num_batches_tracked")]
    if wrong:
        raise ValueError(f"these weights of timm are of another model: {len(wrong)} tensors differ (first: {wrong[0]})")


def _check(out_features: Sequence[str], freeze_at: int, norm: str, drop_path_rate: float) -> None:
    for name in out_features:
        if name not in STAGES:
            raise ConfigError(f"out_features: no stage '{name}'. {did_you_mean(name, STAGES)}")
    if not out_features:
        raise ConfigError(f"out_features is empty; name some of {', '.join(STAGES)}.")
    if not 0 <= freeze_at <= len(STAGES) + 1:
        raise ConfigError(f"freeze_at must be 0 to {len(STAGES) + 1}, got {freeze_at}.")
    if norm not in NORMS:
        raise ConfigError(f"norm: unknown '{norm}'. {did_you_mean(norm, NORMS)}")
    if not 0 <= drop_path_rate < 1:
        raise ConfigError(f"drop_path_rate must be in [0, 1), got {drop_path_rate}.")


def _indices(timm: Any, model_name: str, kwargs: dict[str, Any]) -> list[int]:
    """Return the indices of the feature maps of strides 4, 8, 16 and 32."""
    try:
        with torch.device("meta"):
            probe = timm.create_model(model_name, pretrained=False, features_only=True, **kwargs)
    except (TypeError, RuntimeError, AssertionError, ValueError) as err:
        raise ConfigError(f"{model_name}: timm cannot build it as a backbone: {err}") from err
    strides = [int(stride) for stride in probe.feature_info.reduction()]
    if not set(STAGES.values()) <= set(strides):
        raise ConfigError(
            f"{model_name} has feature maps of strides {strides}; a pyramid needs 4, 8, 16 and 32. Plain vision "
            "transformers have one stride only; take a ResNet, ConvNeXt, Swin or EfficientNet."
        )
    offset = int(probe.feature_info.out_indices[0])
    return [offset + len(strides) - 1 - strides[::-1].index(stride) for stride in STAGES.values()]


def _any_size(timm: Any, model_name: str, kwargs: dict[str, Any]) -> dict[str, Any]:
    """Return ``kwargs`` with what lets a model of a fixed input size, as Swin is, take any image."""
    if not getattr(timm.get_pretrained_cfg(model_name), "fixed_input_size", False):
        return kwargs
    flexible = {"strict_img_size": False, **kwargs}
    try:
        with torch.device("meta"):
            timm.create_model(model_name, pretrained=False, features_only=True, **flexible)
    except TypeError:  # it has no such setting
        return kwargs
    return flexible


def _normalisation(timm: Any, model_name: str) -> tuple[list[float], list[float]]:
    if (packaged := PACKAGED.get(model_name)) is not None:
        return [packaged.pixel_mean] * 3, [packaged.pixel_std] * 3
    cfg = timm.get_pretrained_cfg(model_name)
    return [round(255 * value, 4) for value in cfg.mean], [round(255 * value, 4) for value in cfg.std]


def _first_parameters(body: nn.Module, freeze_at: int) -> set[str]:
    """Return the names of the parameters of the stem and of the stages up to ``freeze_at``."""
    names = [name for name, _ in body.named_parameters()]
    if freeze_at == 0:
        return set()
    if freeze_at > len(STAGES):
        return set(names)
    ends = [info["module"].replace(".", "_") for info in body.feature_info.get_dicts()]
    flat = [name.replace(".", "_") for name in names]

    def of_stage(stage: int) -> list[int]:
        return [i for i, name in enumerate(flat) if name.startswith(f"{ends[stage]}_")]

    last = of_stage(freeze_at - 2)[-1] + 1 if freeze_at >= 2 else of_stage(0)[0]
    return set(names[:last])
