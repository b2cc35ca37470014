"""Heads that predict at every place of the pyramid."""

from d2tiny.modeling.dense_heads.dense_head import DenseHead, DenseTargets

__all__ = ["DenseHead", "DenseTargets"]
