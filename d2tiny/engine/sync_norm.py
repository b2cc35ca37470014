"""Batch normalisation over the images of all processes."""

from __future__ import annotations

from detectron2.layers import NaiveSyncBatchNorm
from torch import nn

__all__ = ["synchronise_norms"]


def synchronise_norms(model: nn.Module, device: str) -> nn.Module:
    """Return a model whose trained batch norms have the statistics of the batches of all processes together.

    Weights, statistics and their names stay. Frozen batch norms and other norms are left as they are. On the CPU, where
    ``torch.nn.SyncBatchNorm`` does not run, Detectron2's ``NaiveSyncBatchNorm`` weighs all processes equally, which is
    exact where their batches have the same size.

    Args:
        model: changed in place.
        device: ``cpu``, ``cuda`` or ``cuda:N``.
    """
    if device != "cpu":
        return nn.SyncBatchNorm.convert_sync_batchnorm(model)
    replaced: dict[nn.Module, nn.Module] = {}
    for name, module in list(model.named_modules(remove_duplicate=False)):
        if isinstance(module, nn.BatchNorm2d) and not isinstance(module, NaiveSyncBatchNorm):
            replaced.setdefault(module, _synchronised(module))
            parent, _, child = name.rpartition(".")
            setattr(model.get_submodule(parent), child, replaced[module])
    return model


def _synchronised(module: nn.BatchNorm2d) -> NaiveSyncBatchNorm:
    """Return the norm with the same weights, statistics and mode."""
    norm = NaiveSyncBatchNorm(module.num_features, module.eps, module.momentum, affine=module.affine)
    norm.weight, norm.bias = module.weight, module.bias
    norm.running_mean, norm.running_var = module.running_mean, module.running_var
    norm.num_batches_tracked = module.num_batches_tracked
    return norm.train(module.training)
