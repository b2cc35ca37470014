"""The config files of the zoo: where they lie and what they are called."""

from __future__ import annotations

import ast
import os
from pathlib import Path

from d2tiny.utils.errors import ConfigError, did_you_mean

__all__ = ["config_name", "config_names", "config_title", "configs_root", "find_config"]


def configs_root() -> Path:
    """Return the folder of the shipped configs: inside the installed package or beside it in a checkout."""
    package = Path(__file__).resolve().parents[1]
    for root in (package / "configs", package.parent / "configs"):
        if root.is_dir():
            return root
    raise ConfigError(f"No configs folder in or beside {package}. Reinstall d2tiny.")


def config_names() -> list[str]:
    """Return all experiments of the zoo, as ``folder/name`` without the ending."""
    root = configs_root()
    files = [f.relative_to(root) for f in root.rglob("*") if f.suffix in (".py", ".yaml") and f.name != "__init__.py"]
    return sorted(
        (f.with_suffix("") if f.suffix == ".py" else f).as_posix()
        for f in files
        if f.parts[0] != "common" and not f.name.startswith("_")
    )


def find_config(name: str | os.PathLike[str]) -> Path:
    """Return the file of a config given as a path or as a zoo name.

    Raises:
        ConfigError: neither exists; says which zoo name is closest.
    """
    path = Path(name)
    if path.is_file():
        return path
    for candidate in (configs_root() / path, (configs_root() / path).with_suffix(".py")):
        if candidate.is_file() and candidate.resolve().is_relative_to(configs_root().resolve()):
            return candidate
    text = path.with_suffix("").as_posix() if path.suffix == ".py" else path.as_posix()
    text = text.removeprefix("configs/")
    raise ConfigError(f"No config '{name}'. {did_you_mean(text, config_names())}")


def config_name(path: Path) -> str:
    """Return the zoo name of a config file, ``folder/name``; for a file outside the zoo its name without ending."""
    path, root = path.resolve(), configs_root().resolve()
    return path.relative_to(root).with_suffix("").as_posix() if path.is_relative_to(root) else path.stem


def config_title(name: str | os.PathLike[str]) -> str:
    """Return the first line of a config's docstring (``.py``) or of its comments (``.yaml``), without importing it.

    Raises:
        ConfigError: no such config.
    """
    path = find_config(name)
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".py":
        text = ast.get_docstring(ast.parse(text)) or ""
    lines = text.splitlines()
    return lines[0].removeprefix("#").strip() if lines else ""
