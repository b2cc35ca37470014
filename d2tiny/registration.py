"""Registration with Detectron2: done as soon as Detectron2 is imported, so that ``import d2tiny`` itself stays cheap.

Detectron2's registries and catalogs exist only after Detectron2 is imported, and importing it (and torch) takes seconds
that commands such as ``d2tiny check`` need not spend.
"""

from __future__ import annotations

import importlib
import importlib.util
import logging
import sys
import warnings
from collections.abc import Callable, Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

from wrapt import register_post_import_hook, wrap_function_wrapper

from d2tiny.utils.env import require_detectron2

__all__ = ["NEEDS_DETECTRON2", "register_when_imported", "silence_known_warnings"]

# Modules and packages of d2tiny that import Detectron2 when they are imported themselves.
NEEDS_DETECTRON2 = frozenset(
    {
        "d2tiny.analysis.cost",
        "d2tiny.analysis.coverage",
        "d2tiny.compat",
        "d2tiny.config.defaults",
        "d2tiny.config.lazy",
        "d2tiny.config.native",
        "d2tiny.config.shapes",
        "d2tiny.config.signature",
        "d2tiny.config.targets",
        "d2tiny.config.validate",
        "d2tiny.data.coco.records",
        "d2tiny.data.datasets.register",
        "d2tiny.data.loading.check_records",
        "d2tiny.data.loading.loader",
        "d2tiny.data.loading.mapper",
        "d2tiny.data.loading.mosaic",
        "d2tiny.data.tools.preview",
        "d2tiny.data.transforms",
        "d2tiny.engine",
        "d2tiny.evaluation.coco_tiny",
        "d2tiny.export",
        "d2tiny.inference.ray",
        "d2tiny.inference.torch_detector",
        "d2tiny.inference.tta",
        "d2tiny.layers",
        "d2tiny.model_zoo",
        "d2tiny.modeling",
    }
)

_finished: set[str] = set()  # modules of the above, and detectron2, whose import has ended
_registered = False


def silence_known_warnings() -> None:
    """Silence warnings that Detectron2 and fvcore cause under recent torch at every start.

    Detectron2 uses ``torch.jit.script``, and fvcore queries the tracing state. It must run before they are imported.
    """
    warnings.filterwarnings("ignore", message=".*torch.jit.script.*", category=FutureWarning)
    logging.getLogger("torch.fx._symbolic_trace").setLevel(logging.ERROR)


def register_when_imported() -> None:
    """Register d2tiny's parts and datasets now if Detectron2 is imported already, else when it is.

    Where Detectron2 is not installed, the modules that need it say so when they are imported.
    """
    if any(importlib.util.find_spec(name) is None for name in ("torch", "detectron2")):
        sys.meta_path.insert(0, _MissingDetectron2())
    for name in (*NEEDS_DETECTRON2, "detectron2"):
        register_post_import_hook(_after_import, name)
    register_post_import_hook(_check_predictor_inputs, "detectron2.engine.defaults")


def _check_predictor_inputs(module: ModuleType) -> None:
    """Let ``DefaultPredictor`` check its image where the config is d2tiny's.

    It indexes and transposes the array before the model sees it, so that the model cannot say what it wants.
    """

    def check(wrapped: Callable[..., Any], instance: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        from d2tiny.modeling import check_predictor_input

        return check_predictor_input(wrapped, instance, args, kwargs)

    wrap_function_wrapper(module, "DefaultPredictor.__call__", check)


def _after_import(module: ModuleType) -> None:
    """Register unless one of d2tiny's modules is being imported.

    Such a module has imported Detectron2 before its own names exist, so parts that import it would fail. Its own end
    is the next occasion.
    """
    global _registered
    _finished.add(module.__name__)
    unfinished = NEEDS_DETECTRON2 & sys.modules.keys() - _finished
    if _registered or unfinished or "detectron2" not in sys.modules:
        return
    _registered = True
    importlib.import_module("d2tiny.modeling")  # registers models, heads, backbones and necks
    from d2tiny.data.datasets.register import register_builtin

    register_builtin()


class _MissingDetectron2(MetaPathFinder):
    """Refuses the import of modules that need Detectron2, with the command that installs it."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname in NEEDS_DETECTRON2:
            require_detectron2()
        return None
