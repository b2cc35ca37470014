#!/usr/bin/env python
"""Run the cells of a notebook from top to bottom, and store what they print and show.

python tools/run_notebook.py                                       # docs/notebooks/first_minutes.ipynb, in place
python tools/run_notebook.py docs/notebooks/first_minutes.ipynb --output output/run.ipynb

Plain Python: no kernel, no magics. What the last line of a cell returns is shown as Jupyter would show it.
"""

from __future__ import annotations

import argparse
import ast
import base64
import contextlib
import io
import json
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from d2tiny.utils.errors import D2TinyError
from d2tiny.utils.files import write_text

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOK = ROOT / "docs" / "notebooks" / "first_minutes.ipynb"
# How Jupyter asks a value for pictures.
PICTURES = {"image/jpeg": "_repr_jpeg_", "image/png": "_repr_png_"}


def run_notebook(notebook: dict[str, Any], scope: dict[str, Any]) -> dict[str, Any]:
    """Run the code cells in one scope, which they change.

    Args:
        notebook: content of an ``.ipynb`` file, format 4; not modified.
        scope: names that the cells see; afterwards those that they defined as well.

    Returns:
        The notebook with the outputs of this run.

    Raises:
        D2TinyError: a cell failed; its number and the reason are in the message.
    """
    cells = []
    for number, cell in enumerate(notebook["cells"], start=1):
        if cell["cell_type"] == "code":
            try:
                outputs = list(_run_cell("".join(cell["source"]), f"<cell {number}>", scope))
            except Exception as err:
                raise D2TinyError(f"Cell {number} failed: {type(err).__name__}: {err}") from err
            cell = {**cell, "outputs": outputs, "execution_count": None}
        cells.append(cell)
    return {**notebook, "cells": cells}


def _run_cell(source: str, name: str, scope: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Run a cell; yields what it printed and what its last line is."""
    tree = ast.parse(source, name)
    last = tree.body.pop() if tree.body and isinstance(tree.body[-1], ast.Expr) else None
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(compile(tree, name, "exec"), scope)
        value = eval(compile(ast.Expression(last.value), name, "eval"), scope) if isinstance(last, ast.Expr) else None
    if printed.getvalue():
        yield {"output_type": "stream", "name": "stdout", "text": printed.getvalue().splitlines(keepends=True)}
    if value is not None:
        yield {"output_type": "execute_result", "execution_count": None, "metadata": {}, "data": _shown(value)}


def _shown(value: object) -> dict[str, Any]:
    """Return how Jupyter would show a value: as the first picture that it offers, else as text."""
    for kind, method in PICTURES.items():
        picture = getattr(value, method, lambda: None)()
        if picture:
            return {kind: base64.b64encode(picture).decode()}
    return {"text/plain": [repr(value)]}


def main() -> None:
    """Run a notebook in a folder that is removed afterwards, and write it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("notebook", nargs="?", type=Path, default=NOTEBOOK)
    parser.add_argument("--output", type=Path, help="file to write; default: the notebook itself")
    args = parser.parse_args()
    notebook = json.loads(args.notebook.read_text(encoding="utf-8"))
    target = (args.output or args.notebook).resolve()
    before = Path.cwd()
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        try:
            done = run_notebook(notebook, {"__name__": "__main__"})
        finally:
            os.chdir(before)
    write_text(target, json.dumps(done, indent=1, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
