"""A notebook as a page: its text, its code, and what this printed and drew when the notebook was stored."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

__all__ = ["notebook_page"]


def notebook_page(path: Path) -> tuple[str, dict[str, bytes]]:
    """Return the Markdown of a notebook, and its pictures by name."""
    lines: list[str] = []
    pictures: dict[str, bytes] = {}
    for number, cell in enumerate(json.loads(path.read_text("utf-8"))["cells"]):
        source = "".join(cell["source"])
        if cell["cell_type"] == "markdown":
            lines += [source, ""]
        elif cell["cell_type"] == "code":
            lines += ["```python", source, "```", "", *_outputs(cell["outputs"], f"{path.stem}_{number}", pictures)]
    lines += [f'<a href="{path.name}" download>The notebook itself</a>', ""]
    return "\n".join(lines), pictures


def _outputs(outputs: Sequence[Mapping[str, Any]], stem: str, pictures: dict[str, bytes]) -> list[str]:
    lines: list[str] = []
    for index, output in enumerate(outputs):
        data = output.get("data", {})
        kind = next((kind for kind in ("image/png", "image/jpeg") if kind in data), "")
        if kind:
            name = f"{stem}_{index}.{kind.partition('/')[2]}"
            pictures[name] = base64.b64decode("".join(data[kind]))
            lines += [f"![What this cell draws]({name})", ""]
        elif text := "".join(output.get("text", data.get("text/plain", ""))).rstrip():
            lines += ["```text", text, "```", ""]
    return lines
