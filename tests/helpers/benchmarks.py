"""Functions of benchmarks/, whose modules import one another by name."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

from tests.helpers import ROOT


def value_in_benchmarks(module: str, expression: str) -> Any:
    """Return what an expression about a module of benchmarks/ gives, as json carries it."""
    code = f"import json, {module}; from pathlib import Path; print(json.dumps({expression}))"
    run = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT / "benchmarks", capture_output=True, text=True, check=True
    )
    return json.loads(run.stdout)
