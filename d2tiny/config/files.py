"""The configs of the zoo: where they lie and what they are called.

A file of ``configs/FOLDER/`` holds a family of experiments: each public function is one, named as in the zoo, with a
docstring as title, and returns a config. A grid has a constant ``DATASETS`` with names of ``configs/common/data.py``
and functions with the argument ``dataset``: the zoo has each of them once for each dataset. Files that define
``model``, ``dataloader``, … at the top, as lazy configs of Detectron2 do, and native YAML files hold one experiment.
"""

from __future__ import annotations

import ast
import functools
import os
from pathlib import Path
from typing import NamedTuple

from d2tiny.utils.errors import ConfigError, did_you_mean

__all__ = ["ConfigFile", "config_names", "config_title", "configs_root", "experiments", "find_config"]


class ConfigFile(NamedTuple):
    """Where a config is defined: a file, the function in it (None: the file itself), and of a grid the dataset."""

    path: Path
    function: str | None = None
    dataset: str | None = None

    def __str__(self) -> str:
        """Return a text that :func:`find_config` takes: ``path``, ``path:function`` or ``path:function@dataset``."""
        text = f"{self.path}:{self.function}" if self.function else str(self.path)
        return f"{text}@{self.dataset}" if self.dataset else text

    @property
    def name(self) -> str:
        """The zoo name, ``folder/experiment``; outside the zoo the name of the function or file alone."""
        path, root = self.path.resolve(), configs_root().resolve()
        experiment = self.function or (path.stem if path.suffix == ".py" else path.name)
        if self.dataset:
            return f"{self.dataset}/{experiment}"
        return f"{path.parent.relative_to(root)}/{experiment}" if path.is_relative_to(root) else Path(experiment).stem


def configs_root() -> Path:
    """Return the folder of the shipped configs: inside the installed package or beside it in a checkout."""
    package = Path(__file__).resolve().parents[1]
    for root in (package / "configs", package.parent / "configs"):
        if root.is_dir():
            return root
    raise ConfigError(f"No configs folder in or beside {package}. Reinstall d2tiny.")


def experiments(path: Path) -> dict[str, str]:
    """Return the experiments that a Python file defines as functions, with the first lines of their docstrings.

    Those of a grid are named ``function@dataset``. The file is parsed and not executed.

    Raises:
        ConfigError: a syntax error; says where.
    """
    return dict(_experiments(path, path.stat().st_mtime_ns))


@functools.lru_cache(maxsize=256)
def _experiments(path: Path, _mtime: int) -> tuple[tuple[str, str], ...]:
    try:
        tree = ast.parse(path.read_text(encoding="utf-8"), filename=str(path))
    except (SyntaxError, UnicodeDecodeError, ValueError, RecursionError, MemoryError) as err:
        raise ConfigError(f"{path}: cannot read this config: {type(err).__name__}: {err}") from err
    if any("model" in _bound(node) for node in tree.body):
        return ()  # a lazy config of its own, whose functions are helpers
    try:
        named = [n.value for n in tree.body if isinstance(n, ast.Assign) and "DATASETS" in _bound(n)]
        datasets = [[str(name) for name in ast.literal_eval(value)] for value in named]
    except (ValueError, TypeError, SyntaxError, RecursionError) as err:
        raise ConfigError(f"{path}, line {named[0].lineno}: DATASETS must be a tuple of names.") from err
    suffixes = [f"@{name}" for name in datasets[0]] if datasets else [""]
    arguments = ["dataset"] if datasets else []
    return tuple(
        (node.name + suffix, (ast.get_docstring(node) or "").split("\n")[0])
        for node in tree.body
        if isinstance(node, ast.FunctionDef) and [a.arg for a in node.args.args] == arguments and node.name[0] != "_"
        for suffix in suffixes
    )


def _bound(node: ast.stmt) -> set[str]:
    """Return the names that an assignment or a ``from`` import defines."""
    if isinstance(node, ast.ImportFrom):
        return {alias.asname or alias.name for alias in node.names}
    targets = node.targets if isinstance(node, ast.Assign) else []
    return {part.id for target in targets for part in ast.walk(target) if isinstance(part, ast.Name)}


def _entry(path: Path, experiment: str) -> ConfigFile:
    function, _, dataset = experiment.partition("@")
    return ConfigFile(path, function, dataset or None)


def _zoo() -> dict[str, ConfigFile]:
    """Return all experiments of the zoo by name."""
    root = configs_root()
    files = sorted(f for f in root.rglob("*") if f.suffix in (".py", ".yaml") and not f.name.startswith("_"))
    files = [file for file in files if file.relative_to(root).parts[0] != "common"]
    return _zoo_of(tuple((file, file.stat().st_mtime_ns) for file in files))


@functools.lru_cache(maxsize=4)
def _zoo_of(files: tuple[tuple[Path, int], ...]) -> dict[str, ConfigFile]:
    """Return the experiments of these files; the times of modification only tell versions apart."""
    found: list[ConfigFile] = []
    for file, _ in files:
        names = experiments(file) if file.suffix == ".py" else {}
        found += [_entry(file, name) for name in names] or [ConfigFile(file)]
    return dict(sorted((config.name, config) for config in found))


def config_names() -> list[str]:
    """Return all experiments of the zoo, as ``folder/name``; native YAML files keep their ending."""
    return list(_zoo())


def find_config(name: str | os.PathLike[str] | ConfigFile) -> ConfigFile:
    """Return where a config is defined.

    Args:
        name: zoo name; path of a file with one experiment; ``path:function`` for one of several in a file, of a grid
            ``path:function@dataset``.

    Raises:
        ConfigError: there is no such config, or the file holds several; says which.
    """
    if isinstance(name, ConfigFile):
        return name
    text = os.fspath(name)
    file, colon, function = text.rpartition(":")
    if colon and file.endswith(".py") and Path(file).is_file():
        known = experiments(Path(file))
        if function not in known:
            raise ConfigError(f"{file} has no experiment '{function}'. {did_you_mean(function, known)}")
        return _entry(Path(file), function)
    if Path(text).is_file():
        return _only_experiment(Path(text))
    zoo = _zoo()
    short = text.removeprefix("configs/").removesuffix(".py")
    if short in zoo:
        return zoo[short]
    raise ConfigError(f"No config '{name}'. {did_you_mean(short, zoo)}")


def _only_experiment(path: Path) -> ConfigFile:
    functions = list(experiments(path)) if path.suffix == ".py" else []
    if len(functions) > 1:
        raise ConfigError(f"{path} holds {len(functions)} experiments; name one, for example {path}:{functions[0]}")
    return _entry(path, functions[0]) if functions else ConfigFile(path)


def config_title(name: str | os.PathLike[str]) -> str:
    """Return the title of a config: the first line of its docstring (``.py``) or of its comments (``.yaml``).

    Raises:
        ConfigError: no such config.
    """
    path, function, dataset = find_config(name)
    if function is not None:
        title = experiments(path)[f"{function}@{dataset}" if dataset else function]
        if dataset:
            known = experiments(configs_root() / "common" / "data.py")[dataset]
            title = f"{title.removesuffix('.')} on {known.split(':')[0].removesuffix('.')}."
        return title
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".py":
        text = ast.get_docstring(ast.parse(text)) or ""
    lines = text.splitlines()
    return lines[0].removeprefix("#").strip() if lines else ""
