"""Models of timm as backbones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from typing import Any

from detectron2.layers import ShapeSpec
from detectron2.modeling.backbone import Backbone
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from d2tiny.layers.depthwise import keep_depthwise_float32
from d2tiny.layers.folding import prepare_for_inference
from d2tiny.layers.relu6 import keep_results_of_relu6
from d2tiny.modeling.backbone.swin_names import is_of_swin, swin_to_timm
from d2tiny.modeling.backbone.timm_facts import STAGES, TimmFacts, is_nhwc, timm_facts
from d2tiny.utils.errors import CheckpointError, ConfigError, did_you_mean
from d2tiny.utils.timm_weights import PACKAGED, import_timm, timm_tensors

__all__ = ["TimmBackbone"]

NORMS = ("FrozenBN", "BN")
_OURS = ("pretrained", "features_only", "out_indices")


class TimmBackbone(Backbone):
    """A model of timm without its classifier, with feature maps of strides 4 to 32.

    It fits under every neck and detector that takes Detectron2's ResNet. Its ImageNet weights are loaded as a
    checkpoint: ``train.init_checkpoint=timm://NAME`` (or ``MODEL.WEIGHTS`` in YAML), from an installed package, from
    timm's hub, or, with ``timm://NAME?checkpoint=FILE``, from a file; docs/backbones.md.

    Attributes:
        pixel_mean: RGB mean of the images that the weights were trained with, 0 to 255.
        pixel_std: likewise, the standard deviation.
        weights_url: where its weights are, as a checkpoint is named: ``timm://NAME``.
        no_weight_decay: last names of parameters that the optimizer must not decay.
    """

    def __init__(
        self,
        model_name: str,
        *,
        out_features: Sequence[str] = tuple(STAGES),
        freeze_at: int = 0,
        norm: str = "FrozenBN",
        drop_path_rate: float = 0.0,
        out_norm: bool = False,
        feedback_channels: int = 0,
        checkpointing: bool = False,
        **kwargs: Any,
    ) -> None:
        """Build the model with random weights.

        Args:
            model_name: as in ``timm.list_models()``, with a tag of weights as in ``timm.list_pretrained()`` or without.
            out_features: names of the feature maps to return, of ``res2`` … ``res5`` (strides 4 … 32).
            freeze_at: stages that are not trained, as in Detectron2's ResNet: 1 freezes the stem, 2 all that ``res2``
                is computed with, …, 5 everything. Their batch norms and drop paths are frozen too, and they run without
                gradients.
            norm: ``FrozenBN`` freezes statistics and affine parts of all batch norms, ``BN`` trains them; models with
                other norms are not changed.
            drop_path_rate: probability that a block is skipped in training, 0 to below 1.
            out_norm: normalise each returned map over its channels by a layer norm of its own, as detectors on Swin
                and ConvNeXt do in other code (``norm0`` … ``norm3`` of Detectron2's ``SwinTransformer``).
            feedback_channels: channels of the maps that a recursive pyramid feeds back, through a 1×1 convolution that
                starts at zero, behind the first part of each returned stage but the finest; 0 builds no inputs for
                them.
            checkpointing: recompute the inside of stages in the backward pass instead of keeping it; not with feedback
                and not with batch norms that are trained, whose statistics would move twice.
            **kwargs: handed on to ``timm.create_model``.

        Raises:
            ConfigError: a setting with another value, an unknown model, or one that does not give feature maps of these
                strides for images of any size.
            MissingPackageError: timm is not installed.
        """
        super().__init__()
        _check(out_features, freeze_at, norm, drop_path_rate, kwargs)
        timm = import_timm()
        pretrained_cfg = pretrained_cfg_of(timm, model_name)
        if drop_path_rate:
            kwargs["drop_path_rate"] = drop_path_rate
        facts = timm_facts(timm, model_name, kwargs, bool(getattr(pretrained_cfg, "fixed_input_size", False)))
        self._out_features = tuple(name for name in STAGES if name in out_features)
        indices = [facts.indices[name] for name in self._out_features]
        self.body = timm.create_model(
            model_name, pretrained=False, features_only=True, out_indices=indices, **facts.settings
        )
        if "swin" in model_name:
            from d2tiny.modeling.backbone.timm_swin import pad_before_shift  # it imports timm

            pad_before_shift(self.body)
        self._shapes = {name: ShapeSpec(channels=facts.channels[name], stride=STAGES[name]) for name in facts.channels}
        self._channels_last = is_nhwc(self.body)
        self._architecture = model_name.partition(".")[0]
        self.weights_url = f"timm://{model_name}"
        self.pixel_mean, self.pixel_std = normalisation(model_name, pretrained_cfg)
        used = frozenset().union(*(facts.used[name] for name in self._out_features))
        self._freeze(_frozen_parameters(model_name, facts, freeze_at), used)
        self._freeze_norms(norm)
        if checkpointing:
            _checkpoint(self.body, feedback_channels)
        keep_depthwise_float32(self.body)
        keep_results_of_relu6(self.body)
        prepare_for_inference(self.body, trace=True)
        self.no_weight_decay = _undecayed(self.body)
        self.out_norms = nn.ModuleDict(
            {name: nn.LayerNorm(self._shapes[name].channels) for name in self._out_features if out_norm}
        )
        self.out_norms.requires_grad_(freeze_at <= len(STAGES))
        self.feedback_channels = feedback_channels
        self.feedback = self._entrances(facts.entrances)

    def _entrances(self, parts: Mapping[str, str]) -> nn.ModuleDict:
        """Build the convolutions of feedback, and remember the parts of the stages that they are added behind."""
        result, self._parts = nn.ModuleDict(), {name: parts.get(name, "") for name in self._out_features[1:]}
        for name, part in self._parts.items() if self.feedback_channels else ():
            if not part:
                raise ConfigError(
                    f"feedback_channels: {self._architecture} has no part of its {name} that feedback could be added "
                    "behind; take a ResNet, ConvNeXt, Swin or EfficientNet."
                )
            result[name] = nn.Conv2d(self.feedback_channels, self._shapes[name].channels, 1)
            for parameter in result[name].parameters():
                nn.init.zeros_(parameter)
        return result

    def _freeze(self, frozen: frozenset[str], used: frozenset[str]) -> None:
        """Freeze parameters by name, and those that no returned map is computed with: they would get no gradient."""
        for name, parameter in self.body.named_parameters():
            if name in frozen or name not in used:
                parameter.requires_grad_(False)
        from timm.layers import DropPath

        for module in self.body.modules():
            if _is_frozen(module, recurse=True):
                for part in module.modules():
                    if isinstance(part, DropPath):
                        part.drop_prob = 0.0

    def _freeze_norms(self, norm: str) -> None:
        """Freeze the statistics of all batch norms, or of those in frozen stages."""
        from timm.utils.model import freeze_batch_norm_2d

        if norm == "FrozenBN":
            self.body = freeze_batch_norm_2d(self.body)
            return
        for parent in list(self.body.modules()):
            for name, child in list(parent.named_children()):
                if isinstance(child, nn.modules.batchnorm._BatchNorm) and _is_frozen(child, recurse=False):
                    setattr(parent, name, freeze_batch_norm_2d(child))

    @property
    def size_divisibility(self) -> int:
        """Pixels that the padded height and width must be a multiple of: the largest stride."""
        return STAGES[self._out_features[-1]]

    def forward(self, image: Tensor, feedback: dict[str, Tensor] | None = None) -> dict[str, Tensor]:
        """Map images to the feature maps of ``out_features``.

        Args:
            image: (B, 3, H, W).
            feedback: maps (B, ``feedback_channels``, H_s, W_s) by stage name, of the size of the stage.

        Returns:
            (B, C_s, H / stride, W / stride) by stage name.
        """
        with ExitStack() as hooks:
            for name, given in (feedback or {}).items():
                if name in self.feedback:
                    hooks.callback(self._add_behind(self._parts[name], self.feedback[name](given)).remove)
            maps = self.body(image)
        named = dict(zip(self._out_features, maps, strict=True))
        if not (self._channels_last or self.out_norms):
            return named
        for name, x in named.items():
            x = x if self._channels_last else x.permute(0, 2, 3, 1)
            x = self.out_norms[name](x) if name in self.out_norms else x
            named[name] = x.permute(0, 3, 1, 2)
        return named

    def _add_behind(self, part: str, extra: Tensor) -> RemovableHandle:
        """Let the output of a part of the body be increased by a map (B, C, h, w) until the hook is removed."""
        if self._channels_last:
            extra = extra.permute(0, 2, 3, 1)
        return self.body.get_submodule(part).register_forward_hook(lambda _, __, output: output + extra)

    def output_shape(self) -> dict[str, ShapeSpec]:
        """Return channels and stride of each stage of ``out_features``."""
        return {name: self._shapes[name] for name in self._out_features}

    def adapt_state(self, state: dict[str, Any], prefix: str) -> set[str]:
        """Take the weights of ``timm://NAME`` into a state dict that is being loaded, in place.

        A Swin also takes those of Detectron2's ``SwinTransformer``, whose norms of the maps need ``out_norm``.

        Args:
            state: the checkpoint's tensors by name.
            prefix: of this module's own tensors.

        Returns:
            The names that were taken.

        Raises:
            CheckpointError: they are of another model.
        """
        return take_timm_tensors(self.body, self._architecture, state, prefix) | self._take_swin(state, prefix)

    def _take_swin(self, state: dict[str, Any], prefix: str) -> set[str]:
        """Take the weights of Detectron2's Swin; return the names that were taken."""
        given = {name.removeprefix(prefix): name for name in state if name.startswith(prefix)}
        if not (self._architecture.startswith("swin_") and is_of_swin(given)):
            return set()
        places = {name: swin_to_timm(own) for own, name in given.items()}
        taken = {name: place for name, place in places.items() if f"{prefix}{place}" != name}
        state.update({f"{prefix}{place}": state[name] for name, place in taken.items() if place})
        return set(taken)


def take_timm_tensors(body: nn.Module, architecture: str, state: dict[str, Any], prefix: str) -> set[str]:
    """Take the weights of ``timm://NAME`` for the module ``body`` of a backbone; see ``TimmBackbone.adapt_state``."""
    other, given = timm_tensors(state)
    if not given:
        return set()
    if other != architecture:
        place = f"the model {prefix}".rstrip(". ")
        raise CheckpointError(f"these are weights of {other}, but {place} is {architecture}.")
    own = body.state_dict()
    _require_same(own, {name: state[key] for name, key in given.items()})
    state.update({f"{prefix}body.{name}": state[key] for name, key in given.items() if name in own})
    return set(given.values())


def _require_same(own: Mapping[str, Tensor], given: Mapping[str, Tensor]) -> None:
    """Raise unless all tensors are given; further ones belong to parts that are not built."""
    wrong = [key for key in own if key not in given or given[key].shape != own[key].shape]
    wrong = [key for key in wrong if not key.endswith("num_batches_tracked")]
    if wrong:
        raise CheckpointError(
            f"{len(wrong)} tensors of timm's model are missing or of another shape (first: {wrong[0]}); was it built "
            "with settings of another network?"
        )


def _check(
    out_features: Sequence[str], freeze_at: int, norm: str, drop_path_rate: float, kwargs: Mapping[str, Any]
) -> None:
    for name in out_features:
        if name not in STAGES:
            raise ConfigError(f"out_features: no stage '{name}'. {did_you_mean(name, STAGES)}")
    if not out_features:
        raise ConfigError(f"out_features is empty; name some of {', '.join(STAGES)}.")
    if freeze_at not in range(len(STAGES) + 2):
        raise ConfigError(f"freeze_at must be 0 to {len(STAGES) + 1}, got {freeze_at}.")
    if norm not in NORMS:
        raise ConfigError(f"norm: unknown '{norm}'. {did_you_mean(norm, NORMS)}")
    if not 0 <= drop_path_rate < 1:
        raise ConfigError(f"drop_path_rate must be in [0, 1), got {drop_path_rate}.")
    for name in _OURS:
        if name in kwargs:
            raise ConfigError(f"{name} cannot be set: out_features and the checkpoint timm://NAME decide it.")


def _checkpoint(body: Any, feedback_channels: int) -> None:
    trained = [m for m in body.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    if feedback_channels or trained or not hasattr(body, "set_grad_checkpointing"):
        why = "timm has none for this model"
        if feedback_channels or trained:
            why = f"it does not go with {'feedback_channels' if feedback_channels else 'norm=BN'}"
        raise ConfigError(f"checkpointing=true: {why}; leave it out.")
    body.set_grad_checkpointing(True)


def _is_frozen(module: nn.Module, *, recurse: bool) -> bool:
    """Whether a module has parameters and none is trained."""
    trained = [parameter.requires_grad for parameter in module.parameters(recurse=recurse)]
    return bool(trained) and not any(trained)


def _undecayed(body: nn.Module) -> tuple[str, ...]:
    """Return names of scales of layers, such as ``gamma``, and of tables of positions."""
    found = set()
    for path, parameter in body.named_parameters():
        name = path.rpartition(".")[2]
        if (parameter.ndim <= 1 and name not in ("weight", "bias")) or "position" in name or "pos_embed" in name:
            found.add(name)
    return tuple(sorted(found))


def pretrained_cfg_of(timm: Any, model_name: str) -> Any:
    """Return what timm knows about the weights of a model; None where it knows nothing."""
    if not timm.is_model(model_name):
        raise ConfigError(f"model_name: timm has no '{model_name}'. {did_you_mean(model_name, timm.list_models())}")
    try:
        return timm.get_pretrained_cfg(model_name)
    except RuntimeError as err:  # it has the model, but not these weights
        known = timm.list_pretrained(f"{model_name.partition('.')[0]}.*")
        raise ConfigError(f"model_name: timm has no '{model_name}'. {did_you_mean(model_name, known)}") from err


def _frozen_parameters(model_name: str, facts: TimmFacts, freeze_at: int) -> frozenset[str]:
    """Return the names of the parameters of the stem and of the stages up to ``freeze_at``."""
    if freeze_at == 0:
        return frozenset()
    if freeze_at > len(STAGES):
        return frozenset().union(*facts.used.values())
    if freeze_at >= 2:
        return facts.used[list(STAGES)[freeze_at - 2]]
    first = next(iter(STAGES))
    used, start = facts.used[first], f"{facts.modules[first]}_"
    stem = frozenset(name for name in used if not name.replace(".", "_").startswith(start))
    if len(stem) in (0, len(used)):
        raise ConfigError(f"freeze_at=1: the stem of {model_name} cannot be told from its first stage; take 0 or 2.")
    return stem


def normalisation(model_name: str, pretrained_cfg: Any) -> tuple[list[float], list[float]]:
    """Return mean and standard deviation of the RGB images that a model's weights were trained with, 0 to 255."""
    if (packaged := PACKAGED.get(model_name)) is not None:
        return [packaged.pixel_mean] * 3, [packaged.pixel_std] * 3
    if pretrained_cfg is None:
        raise ConfigError(f"{model_name}: timm does not say how its images are normalised; take another model.")
    mean, std = pretrained_cfg.mean, pretrained_cfg.std
    return [round(255 * value, 4) for value in mean], [round(255 * value, 4) for value in std]
