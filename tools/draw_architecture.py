"""Draw who imports whom in d2tiny, for docs/architecture.md.

    python tools/draw_architecture.py            # writes docs/images/architecture.png
    python tools/draw_architecture.py --check    # exit status 1 if the picture is not that of the imports

Boxes are subpackages (folders and files of d2tiny, and of d2tiny/modeling), each above everything that it imports.
Arrows that follow from others are left out. The imports are stored in the picture's description, so that a test can
tell whether it is current.
"""

from __future__ import annotations

import argparse
import ast
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from PIL import Image

ROOT = Path(__file__).resolve().parents[1]
PICTURE = ROOT / "docs" / "images" / "architecture.png"
MODELING = "modeling."
_UNDER_MODELING = ("ops", "layers")  # drawn on the same side

Edges = dict[str, set[str]]


def subpackage(module: str) -> str:
    """Return where a module is: ``modeling.losses`` for ``d2tiny.modeling.losses.iou``, "" for d2tiny itself."""
    parts = module.split(".")[1:]
    return ".".join(parts[:2]) if parts[:1] == ["modeling"] else ".".join(parts[:1])


def imports(path: Path) -> Iterator[str]:
    """Yield the modules that a file imports.

    Raises:
        ValueError: a relative import.
    """
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            if node.level or node.module is None:
                raise ValueError(f"{path}: relative import; write d2tiny.…")
            yield node.module
            # `from d2tiny import model_zoo` names a module, not a thing inside one
            yield from (f"{node.module}.{a.name}" for a in node.names if node.module == "d2tiny")


def module_name(path: Path, package: Path) -> str:
    """Return the dotted name of a file of the package."""
    parts = path.relative_to(package.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def read_edges(package: Path) -> Edges:
    """Return for each subpackage the others that it imports."""
    edges: Edges = {}
    for path in sorted(package.rglob("*.py")):
        here = subpackage(module_name(path, package))
        others = {subpackage(name) for name in imports(path) if name.split(".")[0] == package.name}
        if here:
            edges.setdefault(here, set()).update(others - {here, ""})
    return edges


def describe(edges: Edges) -> str:
    """Return the edges as text, one line for each subpackage."""
    return "\n".join(f"{name}: {', '.join(sorted(edges[name]))}".rstrip() for name in sorted(edges))


def floors(edges: Edges) -> dict[str, int]:
    """Return the floor of each subpackage, 0 for the lowest.

    A subpackage is one floor above the highest that it imports; one that imports none is right under its users.

    Raises:
        ValueError: subpackages that import one another in a circle.
    """
    found: dict[str, int] = {}

    def floor(name: str, path: tuple[str, ...]) -> int:
        if name in path:
            raise ValueError(f"Subpackages import one another: {' -> '.join((*path[path.index(name) :], name))}.")
        if name not in found:
            found[name] = max((floor(other, (*path, name)) + 1 for other in edges.get(name, ())), default=0)
        return found[name]

    for name in edges:
        floor(name, ())
    users = {name: [found[other] for other in edges if name in edges[other]] for name in edges if not edges[name]}
    return found | {name: min(above) - 1 for name, above in users.items() if above}


def reduced(edges: Edges) -> Edges:
    """Leave out imports that are also reached through another import."""

    def reached(name: str) -> set[str]:
        return set().union(*({other} | reached(other) for other in edges.get(name, ()))) if edges.get(name) else set()

    return {
        name: {other for other in others if not any(other in reached(via) for via in others - {other})}
        for name, others in edges.items()
    }


def place(edges: Edges) -> dict[str, tuple[float, float]]:
    """Return the middle of each box: modeling on the left, the rest on the right, a row for each floor."""
    level, arrows = floors(edges), reduced(edges)
    at: dict[str, tuple[float, float]] = {}
    for row in range(max(level.values()) + 1):
        for left in (True, False):
            names = sorted(n for n in level if level[n] == row and _on_the_left(n) == left)
            # in the order of what they import
            wanted = {n: _mean([at[o][0] for o in arrows[n] if o in at]) for n in names}
            names.sort(key=lambda n: (wanted[n], n))
            start, width = (0.0, 4.4) if left else (4.9, 4.0)
            for i, name in enumerate(names):
                at[name] = (start + width * (i + 0.5) / len(names), float(row))
    return at


def _on_the_left(name: str) -> bool:
    return name.startswith("modeling") or name in _UNDER_MODELING


def _mean(values: list[float]) -> float:
    return sum(values) / len(values) if values else 0.0


def draw(edges: Edges, output: Path) -> None:
    """Draw the boxes and the reduced edges to a PNG whose description holds all edges."""
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    at, arrows = place(edges), reduced(edges)
    top = max(y for _, y in at.values())
    figure: Any
    axes: Any
    figure, axes = plt.subplots(figsize=(13, 1.0 * top + 1.6))
    if inner := [y for name, (_, y) in at.items() if name.startswith("modeling")]:
        low, high = min(inner), max(inner)
        axes.add_patch(plt.Rectangle((-0.15, low - 0.4), 4.7, high - low + 0.8, color="#eef3fa", zorder=0))
        axes.text(-0.08, high + 0.24, "d2tiny/modeling", color="#5b7aa6", fontsize=10, style="italic")
    for number, name in enumerate(sorted(arrows)):
        for other in sorted(arrows[name]):
            (x, y), (to_x, to_y) = at[name], at[other]
            bend = 0.0 if abs(to_y - y) <= 1 else (0.08 if to_x >= x else -0.08)
            style = {"arrowstyle": "-|>", "lw": 1.1, "shrinkA": 0, "shrinkB": 1}
            style |= {"connectionstyle": f"arc3,rad={bend}", "color": _COLOURS[number % len(_COLOURS)]}
            axes.annotate("", (to_x, to_y + 0.2), (x, y - 0.2), arrowprops=style, zorder=1)
    for number, name in enumerate(sorted(arrows)):
        box = {"boxstyle": "round,pad=0.4", "fc": "white", "ec": _COLOURS[number % len(_COLOURS)], "lw": 1.4}
        axes.text(*at[name], name.removeprefix(MODELING), ha="center", va="center", fontsize=10.5, bbox=box, zorder=2)
    axes.set_xlim(-0.2, 9.0)
    axes.set_ylim(-0.5, top + 0.6)
    axes.axis("off")
    description = {"Description": describe(edges), "Software": None}
    figure.savefig(output, dpi=110, bbox_inches="tight", metadata=description)
    plt.close(figure)


_COLOURS = ("#4c72b0", "#dd8452", "#55a868", "#c44e52", "#8172b3", "#937860", "#da8bc3", "#7f7f7f", "#b5a642")


def is_current(picture: Path, edges: Edges) -> bool:
    """Return whether a picture was drawn from these edges."""
    if not picture.exists():
        return False
    with Image.open(picture) as image:
        return image.info.get("Description") == describe(edges)


def main(arguments: list[str] | None = None) -> int:
    """Draw, or check."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--output", type=Path, default=PICTURE, help="PNG to write (default: %(default)s)")
    parser.add_argument("--check", action="store_true", help="write nothing; fail if the picture is not current")
    args = parser.parse_args(arguments)
    edges = read_edges(ROOT / "d2tiny")
    if not args.check:
        draw(edges, args.output)
        print(f"{args.output}: {len(edges)} subpackages")
    elif not is_current(args.output, edges):
        print(f"{args.output} is not that of the imports; run python tools/draw_architecture.py", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
