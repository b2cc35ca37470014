"""Batch normalisation of batches without contrast, such as nodata tiles."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from detectron2.layers import NaiveSyncBatchNorm
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

__all__ = ["has_contrast", "norms_for"]


def has_contrast(images: Sequence[Tensor]) -> bool:
    """Return whether any two pixels of the (C, H_i, W_i) images of a batch differ."""
    return any(bool((image != images[0][:, :1, :1]).any()) for image in images if image.numel())


@contextmanager
def norms_for(model: nn.Module, images: Sequence[Tensor]) -> Iterator[None]:
    """Let batch norms normalise by their running statistics inside, if the images of a batch have no contrast.

    Such a batch has no variance in any channel. Each batch norm would then divide the gradient by √ε, which is infinite
    after some tens of layers, and pull its running variance towards 0. Norms that are synchronised between processes
    are left alone, because their batch is larger than this one, and all processes must take part.

    Args:
        model: in training mode; its norms are in it again afterwards.
        images: of the batch, (C, H_i, W_i).
    """
    synchronised = (nn.SyncBatchNorm, NaiveSyncBatchNorm)
    norms = [
        module
        for module in (() if has_contrast(images) else model.modules())
        if isinstance(module, _BatchNorm) and not isinstance(module, synchronised) and module.training
    ]
    for norm in norms:
        norm.eval()
    try:
        yield
    finally:
        for norm in norms:
            norm.train()
