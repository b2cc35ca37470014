"""What is said of the machine."""

from __future__ import annotations

import pytest
import torch

from d2tiny.utils import env


@pytest.mark.parametrize(
    ("flags", "fast"),
    [
        ("flags : fpu avx512f avx512_bf16", True),
        ("flags : fpu amx_bf16", True),
        ("Features : fp asimd bf16 i8mm", True),
        ("flags : fpu avx2 avx512f xbf16x", False),
        (None, False),
    ],
)
def test_bfloat16_of_processors(flags, fast, tmp_path, monkeypatch):
    """Asked for a CPU, the GPU beside it does not count."""
    cpuinfo = tmp_path / "cpuinfo"
    if flags is not None:
        cpuinfo.write_text(flags)
    monkeypatch.setattr(env, "Path", lambda name: cpuinfo)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    assert env.has_fast_bf16("cpu") == fast
    assert env.has_fast_bf16("auto")
    assert ("several times as long" in env.advise_on_bf16("cpu")) != fast
    assert not env.advise_on_bf16("cuda:1")
    monkeypatch.setattr(torch.version, "hip", None)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (7, 5))  # it emulates bfloat16
    assert not env.has_fast_bf16("auto")
    assert "this GPU has no units" in env.advise_on_bf16("cuda:1")
