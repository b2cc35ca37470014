"""``timm://NAME`` for Detectron2's own tools, as d2tiny's read it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from detectron2.utils.file_io import PathManager
from iopath.common.file_io import PathHandler, get_cache_dir

from d2tiny.utils.checkpoint_files import read_checkpoint
from d2tiny.utils.files import open_atomic
from d2tiny.utils.timm_weights import timm_tensors

__all__ = ["TimmHandler"]


class TimmHandler(PathHandler):
    """Gives Detectron2's checkpointer a file in which it finds the tensors of a TimmBackbone by their last names."""

    def _get_supported_prefixes(self) -> list[str]:
        return ["timm://"]

    def _get_local_path(self, path: str, force: bool = False, **kwargs: Any) -> str:
        """Return the file; written anew each time, because a package may have been installed or changed."""
        state = read_checkpoint(path)["model"]
        weights = {f"body.{name}": state[key] for name, key in timm_tensors(state)[1].items()}
        file = Path(get_cache_dir()) / "timm" / f"{path.removeprefix('timm://')}.pth"
        file.parent.mkdir(parents=True, exist_ok=True)
        with open_atomic(file) as stream:
            torch.save({"model": weights, "matching_heuristics": True}, stream)
        return str(file)


PathManager.register_handler(TimmHandler(), allow_override=True)
