"""Pages of the reference: one for each package, with all public names of its modules, in the form of mkdocstrings.

Public is what a module or a package lists in ``__all__``. Modules are read, not imported.
"""

from __future__ import annotations

import ast
import json
from collections import defaultdict
from collections.abc import Iterator
from functools import cache
from pathlib import Path

__all__ = ["anchors", "commands_page", "packages", "public_names", "reference_pages"]


def _module(path: Path, root: Path) -> str:
    parts = path.relative_to(root).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


@cache
def _trees(root: Path) -> dict[str, tuple[Path, ast.Module]]:
    files = sorted((root / "d2tiny").rglob("*.py"))
    return {_module(path, root): (path, ast.parse(path.read_text("utf-8"))) for path in files}


def _listed(tree: ast.Module) -> list[str]:
    """Return the names in ``__all__``."""
    for node in tree.body:
        if isinstance(node, ast.Assign) and any(isinstance(t, ast.Name) and t.id == "__all__" for t in node.targets):
            return [str(name) for name in ast.literal_eval(node.value)]
    return []


def _imported(tree: ast.Module) -> dict[str, str]:
    """Return where a module imports its names from, also those that only type checkers see."""
    found: dict[str, str] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("d2tiny"):
            found |= {alias.asname or alias.name: f"{node.module}.{alias.name}" for alias in node.names}
    return found


@cache
def public_names(root: Path) -> dict[str, dict[str, str]]:
    """Return for each module its public names, and the full name of where each is defined."""
    trees = _trees(root)
    found = {}
    for module, (_, tree) in trees.items():
        imported = _imported(tree)
        found[module] = {name: _defined(imported.get(name, f"{module}.{name}"), trees) for name in _listed(tree)}
    return found


def _defined(name: str, trees: dict[str, tuple[Path, ast.Module]]) -> str:
    """Follow imports from package to module."""
    module, _, attribute = name.rpartition(".")
    while name not in trees and module in trees and attribute in (imported := _imported(trees[module][1])):
        name = imported[attribute]
        module, _, attribute = name.rpartition(".")
    return name


@cache
def _members(root: Path) -> dict[str, list[str]]:
    """Return for each module the public names that it defines, in the order of the file."""
    defined = {full for names in public_names(root).values() for full in names.values()}
    members = {}
    for module, (_, tree) in _trees(root).items():
        bound = [name for node in _statements(tree.body) for name in _bound(node)]
        members[module] = [name for name in dict.fromkeys(bound) if f"{module}.{name}" in defined]
    return members


def _statements(body: list[ast.stmt]) -> Iterator[ast.stmt]:
    """Yield the statements of a module, also those that depend on a condition or may fail."""
    for node in body:
        yield node
        if isinstance(node, ast.If | ast.Try):
            handlers = node.handlers if isinstance(node, ast.Try) else []
            for part in (node.body, node.orelse, *(handler.body for handler in handlers)):
                yield from _statements(part)


def _bound(node: ast.stmt) -> list[str]:
    if isinstance(node, ast.FunctionDef | ast.ClassDef):
        return [node.name]
    targets = node.targets if isinstance(node, ast.Assign) else [node.target] if isinstance(node, ast.AnnAssign) else []
    return [part.id for target in targets for part in ast.walk(target) if isinstance(part, ast.Name)]


@cache
def packages(root: Path) -> dict[str, list[str]]:
    """Return the modules of each package that has public names, the package itself first."""
    found = defaultdict(list)
    for module, (path, _) in _trees(root).items():
        package = module if path.name == "__init__.py" else module.rpartition(".")[0]
        if path.name == "__init__.py" or _members(root)[module]:
            found[package].append(module)
    kept = {p: m for p, m in found.items() if len(m) > 1 or public_names(root)[p]}
    return dict(sorted(kept.items()))


def anchors(root: Path) -> dict[str, list[str]]:
    """Return for each page the full names that must have a place on it."""
    return {
        package: [f"{module}.{name}" for module in modules for name in _members(root)[module]]
        for package, modules in packages(root).items()
    }


def reference_pages(root: Path) -> dict[str, str]:
    """Return the Markdown of all pages by their place."""
    pages = {f"reference/{package}.md": _page(root, package, modules) for package, modules in packages(root).items()}
    lines = ["# Reference", "", "Every public class and function, package by package, from the docstrings.", ""]
    lines += [
        "The arguments of the commands are on [a page of their own](commands.md).",
        "",
        "| package | what |",
        "|---|---|",
    ]
    for package in packages(root):
        text = ast.get_docstring(_trees(root)[package][1]) or ""
        lines.append(f"| [{package}]({package}.md) | {' '.join(text.split(chr(10) * 2)[0].split())} |")
    pages["reference/index.md"] = "\n".join(lines) + "\n"
    return pages


def _page(root: Path, package: str, modules: list[str]) -> str:
    lines = [f"# {package}", ""]
    names = public_names(root)[package]
    for module in modules:
        members = _members(root)[module]
        if module != package:
            lines += [f"## {module.rpartition('.')[2]}", ""]
        lines += [f"::: {module}", "    options:", "      show_root_heading: false", "      show_root_toc_entry: false"]
        lines += [
            "      heading_level: 3",
            f"      members: {json.dumps(members)}" if members else "      members: false",
            "",
        ]
        if module == package and (elsewhere := [f for f in names.values() if f.rpartition(".")[0] != package]):
            lines += ["Importable from here: " + ", ".join(_reference(root, full) for full in elsewhere) + ".", ""]
    return "\n".join(lines)


def _reference(root: Path, full: str) -> str:
    short = full.rpartition(".")[2]
    if full in packages(root):
        return f"[`{short}`]({full}.md)"
    return f"[`{short}`][{full}]" if short in _members(root).get(full.rpartition(".")[0], ()) else f"`{short}`"


def commands_page() -> str:
    """Return a page with the help of every command."""
    from d2tiny.cli import COMMANDS, command_parser

    lines = [
        "# Arguments of the commands",
        "",
        "What `d2tiny COMMAND --help` prints; [how they go together](../commands.md).",
        "",
    ]
    for name in COMMANDS:
        lines += [f"## d2tiny {name}", "", "```text", command_parser(name).format_help().rstrip(), "```", ""]
    return "\n".join(lines)
