"""Configs: yacs keys for the registries, and strict lazy configs for everything."""

from d2tiny.config.defaults import add_d2tiny_config
from d2tiny.config.lazy import apply_overrides, load_config, save_config
from d2tiny.config.validate import validate_config

__all__ = [
    "add_d2tiny_config",
    "apply_overrides",
    "load_config",
    "save_config",
    "validate_config",
]
