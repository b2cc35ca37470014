"""Reading of YAML configs: plain values only, with the file and the line of a mistake."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from d2tiny.utils.errors import ConfigError

__all__ = ["MAX_YAML_BYTES", "read_yaml", "yaml_error"]

MAX_YAML_BYTES = 4 << 20
_MAX_NODES = 100_000  # values with all aliases written out
_MAX_DEPTH = 100


def read_yaml(path: Path) -> dict[str, Any]:
    """Read a YAML file with keys at its top. Tags of Python are refused: they would run code.

    Raises:
        ConfigError: the file cannot be read, is no YAML, has a tag, repeats itself without end, or has no keys; says in
            which line.
    """
    try:
        content = path.read_bytes()
        if len(content) > MAX_YAML_BYTES:
            raise ConfigError(f"{path}: {len(content)} bytes are too many for a config ({MAX_YAML_BYTES} at most).")
        _check_size(yaml.compose(content, Loader=yaml.SafeLoader))
        loaded = yaml.safe_load(content)
    except OSError as err:
        raise ConfigError(f"{path}: cannot read this config: {err.strerror or err}.") from err
    except ConfigError:
        raise
    except (yaml.YAMLError, UnicodeDecodeError, ValueError, RecursionError, TypeError, OverflowError) as err:
        raise ConfigError(yaml_error(path, err)) from err
    if not isinstance(loaded, dict):
        what = "is empty" if loaded is None else f"holds a {type(loaded).__name__}"
        raise ConfigError(f"{path} {what}; a config has keys at its top, such as model: or MODEL:.")
    return loaded


def _check_size(root: yaml.Node | None) -> None:
    """Raise ValueError for a document that contains itself, or is huge once its aliases are written out."""
    sizes: dict[int, int] = {}

    def size(node: yaml.Node, depth: int) -> int:
        if id(node) in sizes:
            if not sizes[id(node)]:
                raise ValueError("it contains itself")
            return sizes[id(node)]
        if depth > _MAX_DEPTH:
            raise ValueError("it is nested too deeply")
        sizes[id(node)] = 0  # while its parts are counted
        value = node.value if isinstance(node, yaml.CollectionNode) else ()
        parts = [part for pair in value for part in (pair if isinstance(pair, tuple) else (pair,))]
        sizes[id(node)] = 1 + sum(size(part, depth + 1) for part in parts)
        if sizes[id(node)] > _MAX_NODES:
            raise ValueError("its aliases repeat themselves too often")
        return sizes[id(node)]

    if root is not None:
        size(root, 0)


def yaml_error(path: Path, err: Exception) -> str:
    """Return what is wrong in a YAML file, and in which line and column."""
    mark = getattr(err, "problem_mark", None)
    place = f", line {mark.line + 1}, column {mark.column + 1}" if mark is not None else ""
    problem = getattr(err, "problem", None) or str(err) or type(err).__name__
    if isinstance(err, yaml.constructor.ConstructorError) and "tag:yaml.org,2002:python" in str(err):
        tag = str(problem).rpartition("tag:yaml.org,2002:")[2].rstrip("'")
        return f"{path}{place}: the tag !!{tag} would run code, and is not read; write the value itself."
    if isinstance(err, RecursionError):
        problem = "it is nested too deeply, or contains itself"
    return f"{path}{place}: this is no valid YAML: {' '.join(str(problem).split())[:200]}."
