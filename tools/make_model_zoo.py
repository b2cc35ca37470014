#!/usr/bin/env python
"""Write configs/zoo.json and MODEL_ZOO.md, and renew the figures of docs/tiny_objects.md.

python tools/make_model_zoo.py           # from results/
python tools/make_model_zoo.py --cost    # first count parameters and multiply-adds of every config again (minutes)
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from d2tiny import model_zoo
from d2tiny.analysis.cost import cost
from d2tiny.analysis.zoo import collect_rows, rows_json, zoo_file
from d2tiny.analysis.zoo_table import markdown, refreshed
from d2tiny.utils.files import write_text
from d2tiny.utils.published import read_manifest, shipped_folder

ROOT = Path(__file__).resolve().parents[1]


def main() -> None:
    """Count what is not counted yet, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cost", action="store_true", help="count all configs again; else only new ones")
    args = parser.parse_args()
    store = ROOT / "results" / "zoo" / "cost.json"
    known = json.loads(store.read_text()) if store.exists() and not args.cost else {}
    names = [name for name in model_zoo.list_configs() if not name.endswith(".yaml")]
    for name in names:
        if name not in known:
            known[name] = cost(name)
            print(name, known[name], flush=True)
    rows = ",\n".join(f" {json.dumps(name)}: {json.dumps(known[name])}" for name in names)
    write_text(store, f"{{\n{rows}\n}}\n")
    zoo = collect_rows(ROOT / "results")
    write_text(zoo_file(), rows_json(zoo))
    write_text(ROOT / "MODEL_ZOO.md", markdown(zoo, read_manifest(shipped_folder()).weights))
    evidence = ROOT / "docs" / "tiny_objects.md"
    write_text(evidence, refreshed(evidence.read_text(encoding="utf-8"), zoo))


if __name__ == "__main__":
    main()
