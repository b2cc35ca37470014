"""Registries with a did-you-mean, for the parts that Detectron2 has no registry for."""

from __future__ import annotations

from typing import Any

from fvcore.common.registry import Registry as _Registry

from d2tiny.utils.errors import ConfigError, did_you_mean

__all__ = ["ASSIGNER_REGISTRY", "BOX_LOSS_REGISTRY", "NECK_REGISTRY", "Registry", "find_component"]


class Registry(_Registry):
    """fvcore's registry whose :meth:`get` says what was meant."""

    def get(self, name: str) -> Any:
        """Return the object registered as ``name``.

        Raises:
            ConfigError: unknown name; the message holds the closest match.
        """
        if name not in self:
            names = [key for key, _ in self]
            raise ConfigError(f"No {self._name} named '{name}'. {did_you_mean(name, names)}")
        return super().get(name)


ASSIGNER_REGISTRY = Registry("ASSIGNER")
BOX_LOSS_REGISTRY = Registry("BOX_LOSS")
NECK_REGISTRY = Registry("NECK")


def find_component(name: str) -> Any:
    """Look a short name up in all registries of d2tiny (used by config overrides).

    Raises:
        ConfigError: no registry knows the name.
    """
    names: list[str] = []
    for registry in (ASSIGNER_REGISTRY, BOX_LOSS_REGISTRY, NECK_REGISTRY):
        if name in registry:
            return registry.get(name)
        names += [key for key, _ in registry]
    raise ConfigError(f"No component named '{name}'. {did_you_mean(name, names)}")
