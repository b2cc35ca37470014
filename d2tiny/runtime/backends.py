"""The libraries that run exported models, behind one contract."""

from __future__ import annotations

import functools
import importlib.util
import logging
import os
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from d2tiny.runtime.files import check_xml, onnx_metadata
from d2tiny.runtime.metadata import RT_INFO_PATH, ModelMetadata
from d2tiny.utils.env import require_extra
from d2tiny.utils.errors import CheckpointError, ConfigError, D2TinyError, did_you_mean

__all__ = [
    "BACKENDS",
    "INPUT",
    "OUTPUTS",
    "Session",
    "choose_backend",
    "default_threads",
    "open_session",
    "openvino_core",
]

logger = logging.getLogger(__name__)

INPUT = "images"
OUTPUTS = ("boxes", "scores", "classes", "num_detections")


class Session(Protocol):
    """A model that is loaded.

    Attributes:
        backend: name of the library.
        metadata: what the model says of itself.
        sides: (B, H, W) that the graph was fixed to; None where it takes any.
    """

    backend: str
    metadata: ModelMetadata
    sides: tuple[int | None, int | None, int | None]

    def run(self, images: np.ndarray) -> list[np.ndarray]:
        """Return the outputs, in the order of :data:`OUTPUTS`, of images (B, H, W, 3) uint8."""
        ...


def default_threads() -> int:
    """Return the number of threads: ``OMP_NUM_THREADS``, else that of the processors this process may use."""
    given = os.environ.get("OMP_NUM_THREADS", "").split(",")[0].strip()
    if given.isdecimal() and int(given) > 0:
        return int(given)
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def choose_backend(path: Path, asked: str | None) -> str:
    """Return the library that runs a model.

    Args:
        path: of the model; OpenVINO reads ``.xml`` and ``.onnx``, ONNX Runtime ``.onnx``.
        asked: ``openvino``, ``onnxruntime``, or None for OpenVINO where it is installed.

    Raises:
        ConfigError: unknown, or one that cannot read the file.
        MissingPackageError: it is not installed.
    """
    if asked is not None and asked not in BACKENDS:
        raise ConfigError(f"backend={asked!r} is unknown. {did_you_mean(asked, BACKENDS)}")
    if path.suffix.lower() == ".xml":
        if asked == "onnxruntime":
            raise ConfigError(f"{path}: onnxruntime does not read OpenVINO's .xml; use openvino, or export as onnx.")
        asked = "openvino"
    if asked is None:
        found = importlib.util.find_spec("openvino") is not None
        without = importlib.util.find_spec("onnxruntime") is None
        asked = "openvino" if found or without else "onnxruntime"
    require_extra(asked, "runtime")
    return asked


def open_session(path: Path, backend: str, threads: int) -> Session:
    """Load a model.

    Raises:
        CheckpointError: the file is damaged, or no detector that d2tiny exported.
        ConfigError: metadata of another version, or a precision that this library does not have.
    """
    try:
        return BACKENDS[backend](path, threads)
    except D2TinyError as err:
        if str(path) in str(err):
            raise
        raise type(err)(f"{path}: {err}") from err
    except MemoryError:
        raise
    except Exception as err:  # each library has errors of its own
        raise CheckpointError(
            f"{path} cannot be loaded by {backend}: it is damaged, or of a newer version ({_first_line(err)}). "
            "Copy it again, or export it again."
        ) from err


def _first_line(err: BaseException) -> str:
    """Return what an error of a library says, in one line."""
    lines = [line.strip() for line in str(err).splitlines() if line.strip()]
    # OpenVINO begins with places in its source.
    told = [line for line in lines if not line.startswith(("Exception from ", "Check '"))] or lines
    return told[0][:300] if told else type(err).__name__


def _metadata(path: Path, text: str | None) -> ModelMetadata:
    if not text:
        raise CheckpointError(f"{path}: no model that d2tiny exported: it has no metadata of d2tiny. Export it again.")
    return ModelMetadata.from_json(text)


def _require_contract(inputs: list[str], outputs: list[str]) -> None:
    """Raise CheckpointError if the names of inputs and outputs are not those of a detector."""
    if inputs != [INPUT] or set(OUTPUTS) - set(outputs):
        raise CheckpointError(
            f"not the graph of a detector: it takes {', '.join(inputs)} and gives {', '.join(outputs)} instead of "
            f"{INPUT} and {', '.join(OUTPUTS)}."
        )


@functools.cache
def openvino_core() -> Any:
    """Return the ``openvino.Core`` of this process.

    There is one, and it is never freed. Each Core that computes on a processor gives its thread a stack for signal
    handlers, and takes it away when its last model goes. If two of them go in another order than they came, the
    thread keeps a stack that is gone, and the next signal (Ctrl-C, the end of a child process) kills the process.
    """
    return require_extra("openvino", "runtime").Core()


class _OpenVINOSession:
    backend = "openvino"

    def __init__(self, path: Path, threads: int) -> None:
        core = openvino_core()
        is_onnx = path.suffix.lower() == ".onnx"
        text = onnx_metadata(path) if is_onnx else None
        if not is_onnx:
            check_xml(path)
        model = core.read_model(path)
        if not is_onnx:
            place = list(RT_INFO_PATH)
            text = str(model.get_rt_info(place).astype(str)) if model.has_rt_info(place) else None
        self.metadata = _metadata(path, text)
        _require_contract(
            [name for port in model.inputs for name in port.names],
            [name for port in model.outputs for name in port.names],
        )
        shape = model.inputs[0].partial_shape
        b, h, w = (None if shape[i].is_dynamic else int(shape[i].get_length()) for i in range(3))
        self.sides = (b, h, w)
        # The default on processors with bfloat16 would compute everything in it.
        precision = "bf16" if self.metadata.precision == "bf16" else "f32"
        options = {
            "INFERENCE_PRECISION_HINT": precision,
            "INFERENCE_NUM_THREADS": threads,
            "PERFORMANCE_HINT": "LATENCY",
            "NUM_STREAMS": 1,
        }
        self._model = core.compile_model(model, "CPU", options)
        if precision == "bf16" and "BF16" not in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
            logger.warning("%s: OpenVINO has no bfloat16 on this processor, and computes in float32.", path)

    def run(self, images: np.ndarray) -> list[np.ndarray]:
        result: Any = self._model({INPUT: images})
        return [np.asarray(result[name]) for name in OUTPUTS]


class _OnnxSession:
    backend = "onnxruntime"

    def __init__(self, path: Path, threads: int) -> None:
        runtime = require_extra("onnxruntime", "runtime")
        self.metadata = _metadata(path, onnx_metadata(path))
        if self.metadata.precision == "bf16":
            raise ConfigError(
                f"{path}: was exported to be computed in bf16, which onnxruntime cannot do on processors; use openvino."
            )
        options = runtime.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
        options.log_severity_level = 4  # errors are raised
        providers = ["CPUExecutionProvider"]
        self._session = runtime.InferenceSession(str(path), options, providers=providers, enable_fallback=False)
        inputs = self._session.get_inputs()
        _require_contract([port.name for port in inputs], [port.name for port in self._session.get_outputs()])
        b, h, w = (side if isinstance(side, int) else None for side in inputs[0].shape[:3])
        self.sides = (b, h, w)

    def run(self, images: np.ndarray) -> list[np.ndarray]:
        return list(self._session.run(list(OUTPUTS), {INPUT: images}))


BACKENDS: dict[str, Any] = {"openvino": _OpenVINOSession, "onnxruntime": _OnnxSession}
