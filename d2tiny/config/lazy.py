"""Strict loading, overriding and saving of lazy configs."""

from __future__ import annotations

import builtins
import copy
import logging
import os
import re
import traceback
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import nullcontext, suppress
from pathlib import Path
from typing import Any

import omegaconf
import yaml
from detectron2.config import LazyConfig
from detectron2.utils.registry import locate
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import OverrideParseException
from omegaconf import DictConfig, ListConfig, OmegaConf, open_dict
from omegaconf.errors import ConfigTypeError, OmegaConfBaseException

from d2tiny.config.component_defaults import KEY, component_defaults, restore_defaults
from d2tiny.config.files import ConfigFile, configs_root, find_config
from d2tiny.config.safe_yaml import read_yaml
from d2tiny.config.shapes import follows, register_resolvers
from d2tiny.config.signature import accepted_parameters, resolve_target
from d2tiny.config.targets import check_targets
from d2tiny.utils.differences import settings_difference
from d2tiny.utils.errors import ConfigError, D2TinyError, did_you_mean
from d2tiny.utils.files import write_text
from d2tiny.utils.registry import find_component

__all__ = [
    "apply_overrides",
    "config_yaml",
    "load_config",
    "resume_config",
    "save_config",
]

logger = logging.getLogger(__name__)

register_resolvers()


def load_config(name: str | os.PathLike[str] | ConfigFile, overrides: Sequence[str] = ()) -> DictConfig:
    """Load a lazy config, apply overrides and close it against unknown keys.

    Where the config leaves ``train.output_dir`` open, it follows from the config's name: ``output/aitod/…``.

    Args:
        name: zoo name, path of a ``.py`` config (``path:function`` where it holds several) or of a ``.yaml`` written by
            :func:`save_config`.
        overrides: ``key=value`` in hydra's syntax; see :func:`apply_overrides`.

    Raises:
        ConfigError: no such file, a file that does not load, or a bad override.
    """
    config = find_config(name)
    try:
        cfg = _load(config)
        if isinstance(cfg.get("train"), DictConfig) and OmegaConf.is_missing(cfg.train, "output_dir"):
            cfg.train.output_dir = f"output/{config.name}"
    except D2TinyError:
        raise
    except (Exception, SystemExit) as err:  # a .py config is a program, and may fail as any
        reason = " ".join(str(err).split())[:300]
        raise ConfigError(f"{config}: cannot load this config{_line(err)}: {type(err).__name__}: {reason}") from err
    OmegaConf.set_struct(cfg, True)
    return apply_overrides(cfg, overrides)


def _load(config: ConfigFile) -> DictConfig:
    path = config.path.resolve()
    if path.suffix in (".yaml", ".yml"):
        content = read_yaml(path)
        check_targets(content, path)
        restore_defaults(content, path)
        return OmegaConf.create(content, flags={"allow_objects": True})
    if config.function is None:
        return _execute(path)
    experiment = _execute(path, config.function)
    datasets = configs_root() / "common" / "data.py"
    found = experiment(_execute(datasets, config.dataset)()) if config.dataset else experiment()
    if not isinstance(found, dict | DictConfig):
        raise ConfigError(f"{config} must return a dict with model, dataloader, …; got {type(found).__name__}.")
    return DictConfig(
        {key: DictConfig(value, flags={"allow_objects": True}) for key, value in found.items()},
        flags={"allow_objects": True},
    )


def _execute(path: Path, name: str | None = None) -> Any:
    """Run a ``.py`` config and return it, or what it defines as ``name``.

    Detectron2 changes the import of modules meanwhile, and leaves it so when a config fails.
    """
    imports = builtins.__import__
    try:
        return LazyConfig.load(str(path)) if name is None else LazyConfig.load(str(path), name)
    finally:
        builtins.__import__ = imports


def _line(err: BaseException) -> str:
    """Return in which file and line a config failed, from the error or its causes; empty where that is unknown."""
    cause: BaseException | None = err
    while cause is not None:
        if isinstance(cause, SyntaxError) and cause.filename:
            return f" ({cause.filename}, line {cause.lineno})"
        cause = cause.__cause__
    package = Path(__file__).resolve().parents[1]
    others = [Path(omegaconf.__file__).parents[1], Path(os.__file__).parent, package]
    for frame in reversed(traceback.extract_tb(err.__traceback__)):
        file = Path(frame.filename)
        in_others = any(file.is_relative_to(folder) for folder in others) and not file.is_relative_to(configs_root())
        if file.is_file() and not in_others:
            return f" ({file}, line {frame.lineno})"
    return ""


def config_yaml(cfg: DictConfig, *, resolve: bool = False, defaults: bool = False) -> str:
    """Return a config as YAML that :func:`load_config` reads back.

    Args:
        cfg: a lazy config.
        resolve: replace interpolations such as ``${train.max_iter}`` by their values.
        defaults: add the defaults of d2tiny's components that the config leaves open, so that it describes the same
            model when a later version of d2tiny has others.

    Raises:
        ConfigError: the config holds something that YAML cannot (a lambda, an object), or an interpolation of a key
            that does not exist.
    """
    content = _plain(cfg, resolve=resolve)
    return _with_record(content, component_defaults(content)) if defaults else _dump(content)


def save_config(cfg: DictConfig, path: Path) -> None:
    """Write a config as YAML that :func:`load_config` reads back, with the defaults of its time, whole or not at all.

    Raises:
        ConfigError: the config holds something that YAML cannot (a lambda, an object).
    """
    text = config_yaml(cfg, defaults=True)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, text)


def resume_config(cfg: DictConfig, path: Path) -> str:
    """Set the defaults that a run began with in the config that resumes it, in place; return what to save of it.

    Settings that differ from those of the run are logged.

    Args:
        cfg: config of the command that resumes.
        path: where :func:`save_config` wrote that of the run; where it cannot be read, nothing is set.
    """
    content, (stored, record) = _plain(cfg), _stored(path)
    as_set = copy.deepcopy(content)
    content[KEY] = record
    for keys, value in restore_defaults(content, path):
        node: Any = cfg
        for key in keys[:-1]:
            node = node[key]
        with open_dict(node):
            node[keys[-1]] = value
    if stored and (difference := settings_difference(dict(_settings(stored)), dict(_settings(content)), most=8)):
        logger.warning("This run was begun or last resumed with other settings (%s): %s.", path, difference)
    # What the record says stays in it, for the next one who resumes, also what this command sets itself.
    today = component_defaults(as_set)
    kept = {target: {**today.get(target, {}), **record.get(target, {})} for target in sorted({*today, *record})}
    return _with_record(as_set, kept)


def _stored(path: Path) -> tuple[dict[str, Any], dict[str, dict[str, Any]]]:
    """Return the saved config of a run and its record; both empty, with a warning, where it cannot be read."""
    if not path.is_file():
        return {}, {}
    try:
        content: dict[str, Any] = read_yaml(path)
        record = content.get(KEY) or {}
        restore_defaults(content, path)
    except ConfigError as err:
        logger.warning("%s The run goes on with today's defaults.", err)
        return {}, {}
    return content, record


def _settings(node: Any, key: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the full key and the value of every setting."""
    pairs = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
    if not pairs or not node:
        yield key, node
    for name, value in pairs:
        yield from _settings(value, f"{key}.{name}" if key else str(name))


def _with_record(content: dict[str, Any], record: dict[str, dict[str, Any]]) -> str:
    return f"{_dump(content)}\n# Defaults that this config relies on.\n{_dump({KEY: record})}"


def _plain(cfg: DictConfig, *, resolve: bool = False) -> dict[str, Any]:
    """Return a config as plain containers, components by their import path."""
    try:
        content = OmegaConf.to_container(cfg, resolve=resolve)
    except OmegaConfBaseException as err:
        raise ConfigError(str(err)) from err
    plain: dict[str, Any] = _with_names(content, "")
    if KEY in plain:  # Detectron2's loader leaves it in
        raise ConfigError(f"The config has {KEY}, which d2tiny.config.load_config reads: load it with that.")
    return plain


def _dump(content: dict[str, Any]) -> str:
    # Keys keep their order: modules are built, and random weights drawn, in the order of the arguments.
    return yaml.dump(content, sort_keys=False, allow_unicode=True, width=1000)


def _with_names(node: Any, key: str) -> Any:
    """Replace callables by their import path and check that everything else is plain."""
    if isinstance(node, dict):
        return {k: _with_names(v, f"{key}.{k}" if key else str(k)) for k, v in node.items()}
    if isinstance(node, list):
        return [_with_names(v, f"{key}.{i}") for i, v in enumerate(node)]
    if node is None or isinstance(node, str | int | float | bool):
        return node
    if callable(node):
        name = f"{getattr(node, '__module__', '')}.{getattr(node, '__qualname__', '')}"
        with suppress(Exception):  # what is defined in a config file cannot be imported
            if "<" not in name and locate(name) == node:  # equal, since a class method is made anew
                return name
    raise ConfigError(f"{key}: {node!r} cannot be saved as YAML: name a class or function of a module.")


def apply_overrides(cfg: DictConfig, overrides: Iterable[str]) -> DictConfig:
    """Apply ``key=value`` overrides in place; unknown keys raise with a hint.

    A component can be swapped by its registered name (``…assigner=MaxIoUAssigner``) or by a dict with ``_target_``.
    An argument that the config leaves at its default may be set too, when its component accepts it. In a list of
    components the index may be left out: ``box_predictors.box_loss=SALoss`` sets it in every entry. ``+key=value`` adds
    a key whatever the config says.

    Raises:
        ConfigError: a key that does not exist, a value of another type, or text that does not parse.
    """
    overrides = list(overrides)
    try:
        parsed = OverridesParser.create().parse_overrides(overrides)
    except OverrideParseException as err:
        raise ConfigError(
            f"Cannot read override '{err.override}': write key=value ({str(err).splitlines()[0]})."
        ) from err
    for item in parsed:
        if item.is_delete():
            raise ConfigError(f"'{item.input_line}': keys cannot be deleted; set them instead.")
        if item.is_sweep_override():
            raise ConfigError(f"'{item.input_line}': give one value, not a sweep.")
        value = item.value()
        if _holds(value, lambda text: text == "???"):
            raise ConfigError(f"'{item.input_line}': ??? stands for a value that is missing; give one.")
        try:
            _override(cfg, item.key_or_group, value, add=item.is_add() or item.is_force_add())
        except OmegaConfBaseException as err:
            raise ConfigError(f"'{item.input_line}': {str(err).splitlines()[0]}") from err
    for item in parsed:
        if _holds(item.value(), lambda text: "${" in text):
            _check_interpolation(cfg, item.key_or_group)
    return cfg


def _holds(value: Any, is_wanted: Callable[[str], bool]) -> bool:
    """Return whether a text in an override's value is wanted."""
    if isinstance(value, dict):
        return any(_holds(v, is_wanted) for v in value.values())
    if isinstance(value, list):
        return any(_holds(v, is_wanted) for v in value)
    return isinstance(value, str) and is_wanted(value)


def _check_interpolation(cfg: DictConfig, key: str) -> None:
    """Raise if what was set refers to a key that does not exist, or cannot be computed."""
    try:
        value = OmegaConf.select(cfg, key)
        if isinstance(value, DictConfig | ListConfig):
            OmegaConf.to_container(value, resolve=True)
    except ConfigTypeError:  # a list without an index: the same value in each of its entries
        return
    except (OmegaConfBaseException, ArithmeticError, ValueError, TypeError) as err:
        reason = str(err).splitlines()[0] if str(err) else type(err).__name__
        raise ConfigError(f"{key}: {reason}") from err


def _override(cfg: DictConfig, key: str, value: Any, *, add: bool) -> None:
    parts = key.split(".")
    node: Any = cfg
    for i, part in enumerate(parts):
        prefix = ".".join(parts[:i])
        last = i == len(parts) - 1
        if isinstance(node, ListConfig):
            if len(node) and part != "_target_" and all(isinstance(e, DictConfig) and part in e for e in node):
                rest = ".".join(parts[i:])  # without an index: in every entry, as in all stages of a cascade
                for index in range(len(node)):
                    _override(cfg, f"{prefix}.{index}.{rest}", value, add=add)
                return
            if not part.lstrip("-").isdigit() or not -len(node) <= int(part) < len(node):
                raise ConfigError(f"{prefix} is a list of {len(node)}: '{part}' is no index of it.")
            entry: Any = int(part)
        elif isinstance(node, DictConfig):
            entry = part
            if part not in list(node) and not (last and (add or _accepts(node, prefix, part))):
                known = [str(k) for k in node if k != "_target_"]
                if "_target_" in node:
                    known += list(accepted_parameters(resolve_target(node._target_, prefix))[0])
                known = [name for name in known if name != part]  # accepted, but not set here
                place = f" in '{prefix}'" if prefix else ""
                raise ConfigError(f"{key}: unknown key '{part}'{place}. {did_you_mean(part, known)}")
        else:
            raise ConfigError(f"{key}: '{prefix}' is a value ({node!r}), it has no keys.")
        if not last:
            node = node[entry]
            continue
        if isinstance(node, DictConfig) and entry in list(node):
            _check_decision(key, node, entry)
            old = OmegaConf.select(cfg, key, throw_on_missing=False)
            value = _convert(key, old, value)
            merges = isinstance(value, dict) and "_target_" not in value
            if merges and isinstance(old, DictConfig):
                for name, inner in value.items():
                    _override(cfg, f"{key}.{name}", inner, add=add)
                return
        elif isinstance(node, DictConfig) and "_target_" in node:
            _check_default(key, node, entry, value)
        with open_dict(node) if isinstance(node, DictConfig) else nullcontext():
            node[entry] = value
    OmegaConf.set_struct(cfg, True)


def _check_decision(key: str, node: DictConfig, name: str) -> None:
    """Refuse to set what follows from other keys."""
    raw = OmegaConf.to_container(node, resolve=False)
    assert isinstance(raw, dict)
    if follows(raw[name]):
        raise ConfigError(f"{key}: this follows from {raw[name]} and cannot be set; change what it follows from.")


def _accepts(node: DictConfig, prefix: str, name: str) -> bool:
    if "_target_" not in node:
        return False
    names, open_ended = accepted_parameters(resolve_target(node._target_, prefix))
    return name in names or open_ended


def _check_default(key: str, node: DictConfig, name: str, value: Any) -> None:
    """Check the value of an argument that the config leaves at its default against that default."""
    names, _ = accepted_parameters(resolve_target(node._target_, key))
    parameter = names.get(name)
    if parameter is None:
        return
    if isinstance(value, DictConfig | dict) and not str(parameter.annotation).startswith(_LISTS):
        return
    default = parameter.default
    if isinstance(default, bool | int | float | str):
        _convert(key, default, value)
    elif isinstance(default, list | tuple):
        _convert(key, OmegaConf.create(list(default)), value)
    elif default is None:
        _check_annotation(key, str(parameter.annotation), value)


_NUMBERS, _LISTS = {"int": "a whole number", "float": "a number"}, ("Sequence[", "list[", "tuple[", "Iterable[")
_BETWEEN_TYPES = re.compile(r"\s*\|\s*(?![^\[]*\])")  # a bar outside of brackets


def _check_annotation(key: str, annotation: str, value: Any) -> None:
    """Check a value where None is the default, by the types beside None, if these are numbers and lists alone."""
    types = [name for name in _BETWEEN_TYPES.split(annotation) if name != "None"]
    accepted = {"a list [a,b]" if name.startswith(_LISTS) else _NUMBERS.get(name, "") for name in types}
    if not types or "" in accepted or value is None or (isinstance(value, str) and value.startswith("${")):
        return
    kinds = {"a list [a,b]"} if isinstance(value, list | ListConfig) else set()
    if isinstance(value, int | float) and not isinstance(value, bool):
        kinds = {"a number"} if isinstance(value, float) else {"a number", "a whole number"}
    if not kinds & accepted:
        raise ConfigError(f"{key}: expected {' or '.join(sorted(accepted))}, got {value!r}.")


# Type of the present value, types that may replace it, and how to say so; bool stands before int, which it is.
_KINDS: tuple[tuple[type, tuple[type, ...], str], ...] = (
    (bool, (bool,), "true or false"),
    (int, (int,), "a whole number"),
    (float, (int, float), "a number"),
    (str, (str, list), "a text"),  # a dataset's name, or several
    (ListConfig, (list,), "a list [a,b]"),
)


def _convert(key: str, old: Any, value: Any) -> Any:
    """Check a new value against the old one; a component's name becomes its node."""
    if isinstance(old, DictConfig) and "_target_" in old and isinstance(value, str):
        try:
            cls = find_component(value, getattr(resolve_target(old._target_, key), "__name__", ""))
        except ConfigError as err:
            raise ConfigError(f"{key}: {err}") from err
        return {"_target_": f"{cls.__module__}.{cls.__qualname__}"}
    if old is None or value is None or (isinstance(value, str) and value.startswith("${")):
        return value
    if isinstance(old, DictConfig) and not isinstance(value, dict):
        names = [str(name) for name in old if name != "_target_"]
        keys = f"; set one of its keys {', '.join(names)}, as {key}.{names[0]}=…" if names else ""
        component = ", the name of a component" if "_target_" in old else ""
        raise ConfigError(f"{key}: expected keys {{a:1}}{component}{keys}, got {value!r}.")
    if isinstance(old, str) and isinstance(value, int | float) and not isinstance(value, bool):
        return str(value)  # train.output_dir=2024
    for kinds, accepted, name in _KINDS:
        if isinstance(old, kinds):
            if (isinstance(value, bool) and bool not in accepted) or not isinstance(value, accepted):
                raise ConfigError(f"{key}: expected {name} (now {old!r}), got {value!r}.")
            break
    return float(value) if isinstance(old, float) and abs(value) < 2**53 else value  # lr=1
