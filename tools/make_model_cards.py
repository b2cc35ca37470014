#!/usr/bin/env python
"""Write docs/models: a card of each published weights, and their list, from d2tiny/weights/manifest.json."""

from __future__ import annotations

import argparse
from pathlib import Path

from d2tiny.analysis.model_card import card, index
from d2tiny.cli.common import guarded
from d2tiny.utils.files import write_text
from d2tiny.utils.published import default_labels, read_manifest, shipped_folder

ROOT = Path(__file__).resolve().parents[1]


def main() -> int:
    """Write the cards, and remove those of weights that are no longer published."""
    argparse.ArgumentParser(description=__doc__).parse_args()
    return guarded(_write)


def _write() -> int:
    manifest = read_manifest(shipped_folder())
    folder = ROOT / "docs" / "models"
    pages = {f"{entry.name}.md": card(entry, ROOT) for entry in manifest.weights}
    pages["README.md"] = index(manifest.weights, default_labels(str(shipped_folder())))
    for old in folder.glob("*.md"):
        if old.name not in pages:
            old.unlink()
            print(f"removed {old.name}")
    for name, text in pages.items():
        write_text(folder / name, text)
        print(name)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
