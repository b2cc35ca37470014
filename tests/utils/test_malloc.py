"""Freed memory that is kept for the next map."""

from __future__ import annotations

import subprocess
import sys

import pytest

_CODE = """
import resource, sys
import numpy
from d2tiny.utils.malloc import keep_freed_memory
if sys.argv[1] == "keep":
    assert keep_freed_memory()
def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for step in range(4):
    before = faults()
    numpy.ones(16 << 20, numpy.float32)  # 64 MB
print(faults() - before)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc")
def test_the_second_map_needs_no_new_pages():
    def faults(mode):
        return int(subprocess.check_output([sys.executable, "-c", _CODE, mode], text=True))

    assert faults("keep") * 20 < faults("give back")
