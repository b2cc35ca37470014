"""Whether the components of a detection transformer fit together."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from d2tiny.modeling.contracts import Backbone
from d2tiny.modeling.transformer import DeformableEncoder, Denoising, DINODecoder, QuerySelection
from d2tiny.utils.errors import did_you_mean

__all__ = ["check_classes", "check_levels", "check_modules", "strides_for"]


def check_modules(**components: object) -> None:
    """Raise ValueError for a component, given by its name, that is no module."""
    for name, component in components.items():
        if component is not None and not isinstance(component, nn.Module):
            raise ValueError(
                f"TinyDINO: {name}={component!r} is no component. In a config, dgq(model) and rem(model) of "
                "configs/common/parts/dino.py put them in."
            )


def check_levels(
    backbone: Backbone, in_features: Sequence[str], embed_dim: int, **components: DeformableEncoder | DINODecoder
) -> None:
    """Raise ValueError unless backbone, encoder and decoder have the same levels and channels."""
    shapes = backbone.output_shape()
    strides = [shapes[n].stride for n in in_features if n in shapes]
    if strides != sorted(strides):
        raise ValueError(f"TinyDINO: in_features={list(in_features)} must begin with the finest level.")
    if unread := sorted(set(shapes) - set(in_features)):
        raise ValueError(f"TinyDINO: nothing reads the backbone's levels {unread}; name them in in_features.")
    for name, component in components.items():
        if component.num_levels != len(in_features):
            raise ValueError(
                f"TinyDINO: {name}.num_levels={component.num_levels}, but in_features has {len(in_features)} levels."
            )
    wrong = {n: shapes[n].channels for n in in_features if n in shapes and shapes[n].channels != embed_dim}
    if wrong:
        raise ValueError(f"TinyDINO: embed_dim={embed_dim}, but the backbone's levels have {wrong} channels.")


def strides_for(cell_unit: str | None, backbone: Backbone, in_features: Sequence[str]) -> list[int] | None:
    """Return the strides of the levels in px, where cells are measured by them; None for released DETRs' form.

    Raises:
        ValueError: an unknown unit, or a backbone that does not tell its strides.
    """
    if cell_unit is None:
        return None
    if cell_unit != "stride":
        raise ValueError(
            f"TinyDINO: unknown cell_unit '{cell_unit}'; it is 'stride', or None (null in a config) for DINO's whole "
            f"cells. {did_you_mean(cell_unit, ['stride'])}"
        )
    shapes = backbone.output_shape()
    strides = [shapes[name].stride for name in in_features]
    if None in strides:
        raise ValueError(
            f"TinyDINO: cell_unit='stride' needs the strides of all levels, but the backbone gives {strides} for "
            f"{list(in_features)}."
        )
    return [stride for stride in strides if stride is not None]


def check_classes(num_classes: int, **components: QuerySelection | DINODecoder | Denoising | None) -> None:
    """Raise ValueError for a component with another number of classes."""
    for name, component in components.items():
        if component is not None and component.num_classes != num_classes:
            raise ValueError(f"TinyDINO: {name}.num_classes={component.num_classes}, but num_classes={num_classes}.")
