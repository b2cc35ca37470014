"""Which published weights belong to a config, and which config to published weights."""

from __future__ import annotations

import os
from pathlib import Path

from d2tiny.config.files import config_names, find_config
from d2tiny.utils.errors import ConfigError
from d2tiny.utils.published import PublishedWeights, default_weights, known_weights, named_weights, weights_of_config

__all__ = ["config_beside", "find_published", "offers"]


def config_beside(weights: str | os.PathLike[str] | None) -> Path | None:
    """Return the config that a training left beside its weights, or None."""
    if weights is None or not Path(weights).is_file():
        return None
    config = Path(weights).parent / "config.yaml"
    return config if config.is_file() else None


def find_published(
    name: str | os.PathLike[str] | None = None, weights: str | os.PathLike[str] | None = None, place: str = ""
) -> PublishedWeights | None:
    """Return the published weights that ``model_zoo.get_cfg`` takes for these arguments, or None.

    Raises:
        ConfigError: unknown config, or one that this version of d2tiny does not have.
        CheckpointError: unknown weights, or a list of weights that cannot be read.
    """
    if weights is not None:
        found = named_weights(os.fspath(weights), place)
    elif name is None:
        found = default_weights(place)
    else:
        found = _of_config(name, place)
    if found is not None and found.config not in config_names():
        raise ConfigError(f"{found.url}: is of the config {found.config}, which this d2tiny does not have; upgrade it.")
    return found


def _of_config(name: str | os.PathLike[str], place: str) -> PublishedWeights | None:
    """Return the published weights of a config of the zoo; a user's file of the same name has none."""
    config = find_config(name)
    own = config.name in config_names() and find_config(config.name).path.resolve() == config.path.resolve()
    return weights_of_config(config.name, place) if own else None


def offers(place: str = "") -> str:
    """Return a sentence with the names of all published weights, for messages; empty where there are none."""
    names = [entry.name for entry in known_weights(place)]
    return f"Published weights: {', '.join(names)} (d2tiny zoo --published)." if names else ""
