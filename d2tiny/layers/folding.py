"""Batch normalisation folded into convolutions, and in evaluation maps with their channels last.

:func:`prepare_for_inference` gives layers another ``forward``, which computes the same up to rounding. It applies in
evaluation mode without gradients, and on processors to frozen normalisations in training, too, where the gradient goes
through the folded weights; recorded graphs, names of modules, state dicts and checkpoints are as before. Folded weights
of evaluation are computed when they are first needed, and again when a weight or a statistic was changed in place,
loaded, or moved.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import Any, cast

import torch
from detectron2.layers import Conv2d, FrozenBatchNorm2d
from torch import Tensor, fx, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights
from torchvision.ops.misc import FrozenBatchNorm2d as TorchvisionFrozenBatchNorm2d

from d2tiny.layers import onednn
from d2tiny.layers.depthwise import conv_forward, is_float32_layer
from d2tiny.layers.sac import ConvAWS2d
from d2tiny.utils.precision import without_autocast
from d2tiny.utils.tracing import is_traced

__all__ = ["InferenceConv", "is_foldable", "prepare_for_inference"]

logger = logging.getLogger(__name__)
_MARK = "_d2tiny_normalised_by"  # attribute of a map whose normalisation its convolution has computed


class InferenceConv:
    """The ``forward`` of a convolution, with the batch normalisation behind it folded in.

    After modifications that PyTorch does not track (``weight.data``), load a state dict, run the layer once in training
    mode, or call :meth:`drop`.
    """

    def __init__(self, conv: nn.Conv2d, norm: nn.Module | None, place: tuple[nn.Module, str] | None = None) -> None:
        """Take over a layer, whose ``forward`` this becomes.

        Args:
            conv: the layer.
            norm: its batch normalisation with statistics that evaluation does not change; None for none.
            place: of a normalisation that is called after the convolution and not by it, the module and the name that
                it is registered by; where another one takes its place, nothing is folded.
        """
        self.conv, self.norm, self.separate = conv, norm, place is not None
        self._owner, self._name = place or (conv, "norm")
        self._pad = _same_padding(conv)
        self._folded: tuple[Any, Tensor, Tensor, list[Tensor]] | None = None

    def __call__(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """Map (B, C, H, W) to (B, C', H', W')."""
        conv = self.conv
        inference = self._folds_for_inference(x)
        if not inference and self._folded is not None:
            self.drop()  # fused optimizers and running statistics change tensors without increasing their version
        if not (inference or self._folds_in_training(x)):
            plain: Tensor = type(conv).forward(conv, x, *args, **kwargs)
            return plain
        if self._pad is not None:
            x = self._pad(x, conv.kernel_size, conv.stride, conv.dilation)
        out = self._infer(x) if inference else self._train(x)
        if self.separate:
            setattr(out, _MARK, self)  # the normalisation has been done
        activation = getattr(conv, "activation", None)
        return out if activation is None else activation(out)

    def _folds_for_inference(self, x: Tensor) -> bool:
        conv, norm = self.conv, self.norm
        if conv.training or not self.is_connected() or not onednn.is_plain_inference(x):
            return False
        if torch.is_autocast_enabled(x.device.type) and (norm is None or _is_plain_without_autocast(conv)):
            return False
        return norm is None or not (norm.training or self._is_watched())

    def _folds_in_training(self, x: Tensor) -> bool:
        """Return whether a frozen normalisation is folded in where gradients are needed.

        In training the pass of gradient checkpointing without gradients does what its repetition does.
        """
        conv = self.conv
        if not (type(x) is Tensor and self.norm is not None and _is_frozen(self.norm) and x.device.type == "cpu"):
            return False
        if not (conv.training or torch.is_grad_enabled()) or is_traced() or not self.is_connected():
            return False
        exact = x.dtype in (torch.float32, torch.float64) and not torch.is_autocast_enabled("cpu")
        return not self._is_watched() and (exact or not _is_plain_without_autocast(conv))

    def _is_watched(self) -> bool:
        """Return whether hooks see what is between the convolution and its normalisation."""
        norm = cast(nn.Module, self.norm)
        hooks = [norm._forward_pre_hooks, norm._backward_hooks, norm._backward_pre_hooks]
        if self.separate:
            conv = self.conv
            hooks += [conv._forward_hooks, conv._backward_hooks, conv._backward_pre_hooks]
        else:
            hooks.append(norm._forward_hooks)
        return any(hooks)

    def _infer(self, x: Tensor) -> Tensor:
        """Compute the layer without its activation, by weights that are kept."""
        conv = self.conv
        if self.norm is None:
            return onednn.conv2d(x, conv.weight, conv.bias, conv)
        if not torch.is_autocast_enabled(x.device.type):
            return onednn.conv2d(x, *self._folded_weights(x, conv.weight.dtype), conv)
        dtype = self._autocast_dtype(x.device.type)
        with without_autocast(x.device):
            return onednn.conv2d(x.to(dtype), *self._folded_weights(x, dtype), conv)

    def _train(self, x: Tensor) -> Tensor:
        """Compute the layer with a frozen normalisation folded in such that gradients reach the layer's weights.

        The result has the type that it would have from the two layers, and their rounding: where they add in float32,
        neither the bias nor sums of residual blocks are rounded to bfloat16.
        """
        conv, norm = self.conv, cast(Any, self.norm)
        scale = norm.weight * (norm.running_var + norm.eps).rsqrt()
        bias = norm.bias - norm.running_mean * scale
        if conv.bias is not None:
            bias = bias + conv.bias * scale
        weight = _weight(conv) * scale.reshape(-1, 1, 1, 1)
        if is_float32_layer(conv) and torch.is_autocast_enabled("cpu"):
            with without_autocast(x.device):
                return conv._conv_forward(x.float(), weight, bias)
        dtype = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else conv.weight.dtype
        weight = weight.to(conv.weight.dtype)
        # Detectron2's normalisation keeps the type of the map, others have that of their statistics.
        if isinstance(norm, FrozenBatchNorm2d) or dtype == bias.dtype:
            return conv._conv_forward(x, weight, bias.to(conv.weight.dtype))
        return conv._conv_forward(x, weight, None) + bias.reshape(1, -1, 1, 1)

    def _autocast_dtype(self, kind: str) -> torch.dtype:
        """Return the type that the layer computes in under autocast."""
        return torch.float32 if kind == "cpu" and is_float32_layer(self.conv) else torch.get_autocast_dtype(kind)

    def _folded_weights(self, x: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """Return weights and bias with the normalisation folded in, of this type and the input's device."""
        conv, norm = self.conv, cast(Any, self.norm)
        parts = (
            conv.weight,
            conv.bias,
            *conv.buffers(False),
            norm.weight,
            norm.bias,
            norm.running_mean,
            norm.running_var,
        )
        tensors: list[Tensor] = [part for part in parts if part is not None]
        # Tensors made in inference mode have no version.
        tracked = not any(part.is_inference() for part in tensors)
        key = (dtype, norm.eps, *((part.data_ptr(), part._version) for part in tensors)) if tracked else None
        if key is None or self._folded is None or self._folded[0] != key:
            weight, bias = (part.detach().to(dtype) for part in _fold(conv, norm))
            if x.device.type == "cpu":  # maps take over the layout of the weights
                weight = weight.contiguous(memory_format=torch.channels_last)
            # The tensors are kept, so that no other one gets their address.
            self._folded = (key, weight, bias, [part.detach() for part in tensors])
        return self._folded[1], self._folded[2]

    def is_connected(self) -> bool:
        """Return whether no other normalisation took the place of the one that is folded."""
        return self._owner._modules.get(self._name) is self.norm

    def drop(self) -> None:
        """Forget the folded weights."""
        self._folded = None

    def __getstate__(self) -> dict[str, Any]:
        """Leave the folded weights out of copies and pickles."""
        return {**self.__dict__, "_folded": None}


class _SkippedNorm:
    """The ``forward`` of a normalisation that its convolution has folded in: what is behind it remains."""

    def __init__(self, norm: nn.Module, source: InferenceConv) -> None:
        self.norm, self.source = norm, source

    def __call__(self, x: Tensor) -> Tensor:
        if getattr(x, _MARK, None) is not self.source:
            out: Tensor = type(self.norm).forward(self.norm, x)
            return out
        delattr(x, _MARK)  # an activation in place would hand it on
        for name in ("drop", "act"):  # of timm's norms with an activation
            layer = getattr(self.norm, name, None)
            x = x if layer is None else layer(x)
        return x


class _InferenceLinear:
    """The ``forward`` of a linear layer."""

    def __init__(self, layer: nn.Linear) -> None:
        self.layer = layer

    def __call__(self, x: Tensor) -> Tensor:
        layer = self.layer
        if layer.training or not onednn.is_plain_inference(x) or torch.is_autocast_enabled(x.device.type):
            out: Tensor = type(layer).forward(layer, x)
            return out
        return onednn.linear(x, layer.weight, layer.bias)


def _weight(conv: nn.Conv2d) -> Tensor:
    """Return the weights that a layer convolves with."""
    return conv.standardized_weight() if isinstance(conv, ConvAWS2d) else conv.weight


def _fold(conv: nn.Conv2d, norm: Any) -> tuple[Tensor, Tensor]:
    return fuse_conv_bn_weights(
        _weight(conv), conv.bias, norm.running_mean, norm.running_var, norm.eps, norm.weight, norm.bias
    )


def prepare_for_inference(module: nn.Module, *, trace: bool = False) -> int:
    """Let the layers of a model compute in evaluation as this file says, in place; it may be called again.

    Args:
        module: the model or a part of it.
        trace: follow the calls through the module with ``torch.fx`` to find which normalisation follows which
            convolution; otherwise only pairs in a ``Sequential`` and Detectron2's layers, which know their own, are
            found.

    Returns:
        The number of batch normalisations that are folded.
    """
    pairs = dict(_pairs_of_trace(module)) if trace else dict(_pairs_of_sequences(module))
    folded = 0
    for layer in list(module.modules()):
        if isinstance(layer, nn.Linear) and type(layer).forward is nn.Linear.forward:
            if "forward" not in layer.__dict__:
                layer.__dict__["forward"] = _InferenceLinear(layer)
        elif isinstance(layer, nn.Conv2d) and _is_known(layer):
            present = layer.__dict__.get("forward")
            if isinstance(present, InferenceConv) and present.norm is not None and present.is_connected():
                folded += 1
                continue
            own = getattr(layer, "norm", None)
            place = pairs.get(layer) if own is None else None
            norm = own if place is None else place[0]._modules[place[1]]
            if (norm is None and isinstance(layer, ConvAWS2d)) or (norm is not None and not is_foldable(norm)):
                continue  # its forward does more
            if place is not None and getattr(layer, "activation", None) is not None:
                continue  # it comes before the normalisation
            forward = InferenceConv(layer, norm, place)
            layer.__dict__["forward"] = forward
            if norm is not None:
                folded += 1
                if place is not None:
                    norm.__dict__["forward"] = _SkippedNorm(norm, forward)
    return folded


def _is_known(conv: nn.Conv2d) -> bool:
    """Return whether this file knows what the ``forward`` of a convolution does."""
    forwards = (nn.Conv2d.forward, Conv2d.forward, ConvAWS2d.forward)
    own = conv_forward(conv) in forwards
    if conv.padding_mode != "zeros" and isinstance(conv, Conv2d):
        return False  # Detectron2's pads with zeros all the same
    return own or _is_plain_without_autocast(conv) or _same_padding(conv) is not None


def _is_plain_without_autocast(conv: nn.Conv2d) -> bool:
    return bool(getattr(conv, "plain_without_autocast", False))


def _same_padding(conv: nn.Conv2d) -> Callable[..., Tensor] | None:
    """Return what pads the input of timm's convolution with the padding of TensorFlow; None for other layers."""
    cls = type(conv).__mro__[2] if is_float32_layer(conv) else type(conv)
    if cls.__name__ != "Conv2dSame" or not cls.__module__.startswith("timm."):
        return None
    from timm.layers.padding import pad_same

    pad: Callable[..., Tensor] = pad_same
    return pad


def is_foldable(norm: Any) -> bool:
    """Return whether a module is batch normalisation with fixed statistics in evaluation."""
    known = _is_frozen(norm) or isinstance(norm, nn.modules.batchnorm._BatchNorm)
    return known and getattr(norm, "running_mean", None) is not None


_Pair = tuple[nn.Module, tuple[nn.Module, str]]  # a convolution, and where the normalisation behind it is registered


def _pairs_of_sequences(module: nn.Module) -> Iterator[_Pair]:
    """Yield convolutions and the normalisations right behind them in a ``Sequential``."""
    for sequence in module.modules():
        if isinstance(sequence, nn.Sequential):
            for (_, first), (name, second) in pairwise(sequence.named_children()):
                if isinstance(first, nn.Conv2d) and getattr(first, "norm", None) is None and is_foldable(second):
                    yield first, (sequence, name)


def _is_frozen(norm: Any) -> bool:
    """Return whether a module is batch normalisation that training does not change."""
    of_timm = type(norm).__module__.startswith("timm.") and type(norm).__name__ == "FrozenBatchNormAct2d"
    return of_timm or isinstance(norm, FrozenBatchNorm2d | TorchvisionFrozenBatchNorm2d)


class _Tracer(fx.Tracer):
    """Does not look into convolutions and normalisations."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return isinstance(m, nn.Conv2d) or is_foldable(m) or super().is_leaf_module(m, module_qualified_name)


def _pairs_of_trace(module: nn.Module) -> Iterator[_Pair]:
    """Yield convolutions and the normalisations that alone read their outputs, each called once."""
    try:
        nodes = list(_Tracer().trace(module).nodes)
    except Exception as err:  # any model of timm; what cannot be followed is left as it is
        logger.debug("%s: its batch norms are not folded: %s", type(module).__name__, err)
        return
    called = [node.target for node in nodes if node.op == "call_module"]
    for node in nodes:
        if node.op != "call_module" or len(node.users) != 1:
            continue
        (user,) = node.users
        if user.op == "call_module" and called.count(node.target) == called.count(user.target) == 1:
            first, second = module.get_submodule(str(node.target)), module.get_submodule(str(user.target))
            if isinstance(first, nn.Conv2d) and is_foldable(second):
                owner, _, name = str(user.target).rpartition(".")
                yield first, (module.get_submodule(owner), name)
