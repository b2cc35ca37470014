"""Names of the tensors of Detectron2's Swin transformer, and where timm's has them.

detrex, the official DINO and Detectron2's own projects save Swin under these names. With maps that are padded before
they are shifted (``timm_swin.py``) the two compute the same; timm merges patches at the start of a stage instead of at
the end of the one before, and gives its maps without norms.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

__all__ = ["is_of_swin", "swin_to_timm"]

_PATCH = "patch_embed.proj.weight"
_INDEX = re.compile(r"layers\.\d+\.blocks\.\d+\.attn\.relative_position_index")
_BLOCK = re.compile(r"layers\.(\d+)\.(blocks\..+)")
_MERGING = re.compile(r"layers\.(\d+)\.(downsample\..+)")
_NORM = re.compile(r"norm(\d)\.(weight|bias)")


def is_of_swin(names: Iterable[str]) -> bool:
    """Return whether a backbone has such names in Detectron2."""
    known = set(names)
    return _PATCH in known and any(name.startswith("layers.0.blocks.0.attn.") for name in known)


def swin_to_timm(name: str) -> str:
    """Return the name of a tensor in :class:`~d2tiny.modeling.backbone.TimmBackbone`.

    Args:
        name: in Detectron2's ``SwinTransformer``.

    Returns:
        The name; empty for indices, which follow from the size of the windows. Unknown names stay.
    """
    if _INDEX.fullmatch(name):
        return ""
    if match := _BLOCK.fullmatch(name):
        return f"body.layers_{match[1]}.{match[2]}"
    if match := _MERGING.fullmatch(name):
        return f"body.layers_{int(match[1]) + 1}.{match[2]}"
    if match := _NORM.fullmatch(name):
        return f"out_norms.res{int(match[1]) + 2}.{match[2]}"
    return f"body.{name}" if name.startswith("patch_embed.") else name
