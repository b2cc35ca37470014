"""Shell completion.

shtab writes a script once, which the shell loads; completing starts no Python, as it would with argcomplete.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import shtab

__all__ = ["completion"]


def completion(parser: argparse.ArgumentParser, shell: str) -> str:
    """Return the script that completes a parser's commands, options, files and folders.

    Args:
        parser: with all commands.
        shell: ``bash``, ``zsh`` or ``tcsh``.
    """
    for command in _commands(parser).values():
        for action in command._actions:
            if action.type is Path:
                action.complete = shtab.DIRECTORY if action.metavar == "DIR" else shtab.FILE  # type: ignore[attr-defined]
    return shtab.complete(parser, shell)


def _commands(parser: argparse.ArgumentParser) -> dict[str, argparse.ArgumentParser]:
    (commands,) = (a for a in parser._actions if isinstance(a, argparse._SubParsersAction))
    return commands.choices
