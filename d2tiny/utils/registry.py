"""Registries of assigners, box losses and necks, for which Detectron2 has no registry."""

from __future__ import annotations

from typing import Any

from fvcore.common.registry import Registry as _Registry

from d2tiny.utils.errors import ConfigError, did_you_mean

__all__ = ["ASSIGNER_REGISTRY", "BOX_LOSS_REGISTRY", "NECK_REGISTRY", "Registry", "find_component"]


class Registry(_Registry):
    """fvcore's registry whose :meth:`get` suggests the closest name."""

    def get(self, name: str) -> Any:
        """Return the object registered as ``name``.

        Raises:
            ConfigError: unknown name; the message suggests the closest one.
        """
        if name not in self:
            names = [key for key, _ in self]
            raise ConfigError(f"No {self._name} named '{name}'. {did_you_mean(name, names)}")
        return super().get(name)


ASSIGNER_REGISTRY = Registry("ASSIGNER")
BOX_LOSS_REGISTRY = Registry("BOX_LOSS")
NECK_REGISTRY = Registry("NECK")


def find_component(name: str, replaces: str = "") -> Any:
    """Find a component by its name in the registries of d2tiny, for overrides of configs.

    Args:
        name: name of the component.
        replaces: class name of the current component; the new one must be in the same registry.

    Raises:
        ConfigError: no registry has the name, or it is another kind of component.
    """
    registries = (ASSIGNER_REGISTRY, BOX_LOSS_REGISTRY, NECK_REGISTRY)
    allowed = [r for r in registries if replaces in r] or list(registries)
    for registry in allowed:
        if name in registry:
            return registry.get(name)
    names = [key for registry in allowed for key, _ in registry]
    kinds = [r._name.lower().replace("_", " ") for r in registries if name in r]
    if kinds:
        expected = allowed[0]._name.lower().replace("_", " ")
        raise ConfigError(f"'{name}' is of kind '{kinds[0]}', not '{expected}'. {did_you_mean(name, names)}")
    raise ConfigError(f"No component named '{name}'. {did_you_mean(name, names)}")
