"""Configs: yacs keys for the registries, and strict lazy configs for everything.

Names are imported when they are first used: :mod:`d2tiny.config.files` needs no Detectron2.
"""

from typing import TYPE_CHECKING

import lazy_loader

if TYPE_CHECKING:
    from d2tiny.config.defaults import add_d2tiny_config
    from d2tiny.config.lazy import apply_overrides, config_yaml, load_config, resume_config, save_config
    from d2tiny.config.validate import validate_config

__getattr__, __dir__, _ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "defaults": ["add_d2tiny_config"],
        "lazy": ["apply_overrides", "config_yaml", "load_config", "resume_config", "save_config"],
        "validate": ["validate_config"],
    },
)
__all__ = [
    "add_d2tiny_config",
    "apply_overrides",
    "config_yaml",
    "load_config",
    "resume_config",
    "save_config",
    "validate_config",
]
