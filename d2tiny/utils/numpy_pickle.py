"""Read pickles of numpy arrays, as Detectron2's ``R-50.pkl``, without running what a pickle may name."""

from __future__ import annotations

import pickle
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np

from d2tiny.utils.errors import CheckpointError

__all__ = ["read_array_pickle"]

_KINDS = "biuf"  # truth values, whole numbers, floats


class _DType:
    """Stand-in of ``numpy.dtype``: kind, size and byte order of numbers."""

    __slots__ = ("value",)

    def __init__(self, text: Any, *_: Any) -> None:
        self.value = np.dtype(str(text))
        if self.value.kind not in _KINDS:
            raise pickle.UnpicklingError(f"an array of {text!r}, not of numbers")

    def __setstate__(self, state: Any) -> None:
        if state[1] in ("<", ">"):
            self.value = self.value.newbyteorder(state[1])


class _Array:
    """Stand-in of ``numpy.ndarray``, filled by the state that numpy writes."""

    __slots__ = ("value",)

    def __init__(self, *_: Any) -> None:
        self.value = np.empty(0)

    def __setstate__(self, state: Any) -> None:
        _version, shape, dtype, fortran, raw = state
        self.value = _values(raw, dtype, shape, "F" if fortran else "C")


def _values(raw: Any, dtype: Any, shape: Any, order: str) -> np.ndarray[Any, Any]:
    """Return an array of the bytes; Python 2 wrote them as latin-1 text."""
    if not isinstance(dtype, _DType):
        raise pickle.UnpicklingError("an array of objects, not of numbers")
    content = raw.encode("latin-1") if isinstance(raw, str) else bytes(raw)
    return np.frombuffer(content, dtype.value).reshape(shape, order=order).astype(dtype.value.newbyteorder("="))  # type: ignore[call-overload]


def _from_buffer(raw: Any, dtype: Any, shape: Any, order: str) -> _Array:
    array = _Array()
    array.value = _values(raw, dtype, shape, order)
    return array


def _scalar(dtype: Any, raw: Any) -> float | int | bool:
    return _values(raw, dtype, (1,), "C")[0].item()


def _latin1(text: str, _encoding: str = "latin1") -> bytes:
    return text.encode("latin-1")


class _Call:
    """Something a pickle may call; it has no attributes that the pickle could set."""

    __slots__ = ("_function",)

    def __init__(self, function: Any) -> None:
        self._function = function

    def __call__(self, *args: Any) -> Any:
        return self._function(*args)

    def __setstate__(self, state: Any) -> None:
        raise pickle.UnpicklingError("a function with a state")


_CORE = ("numpy.core", "numpy._core")
_ALLOWED: dict[tuple[str, str], Any] = {
    ("numpy", "dtype"): _Call(_DType),
    ("numpy", "ndarray"): "ndarray",
    ("collections", "OrderedDict"): OrderedDict,
    ("_codecs", "encode"): _Call(_latin1),
    **{(module, "bytes"): _Call(lambda: b"") for module in ("builtins", "__builtin__")},  # of empty arrays
    **{(f"{core}.multiarray", "_reconstruct"): _Call(_Array) for core in _CORE},
    **{(f"{core}.multiarray", "scalar"): _Call(_scalar) for core in _CORE},
    **{(f"{core}.numeric", "_frombuffer"): _Call(_from_buffer) for core in _CORE},
}


class _Unpickler(pickle.Unpickler):
    """Knows numpy arrays, numbers, texts and plain containers."""

    def find_class(self, module: str, name: str, /) -> Any:
        """Return the stand-in of a numpy name; refuse every other name."""
        if (module, name) not in _ALLOWED:
            raise pickle.UnpicklingError(f"it names {module}.{name}")
        return _ALLOWED[module, name]


def _plain(value: Any) -> Any:
    return value.value if isinstance(value, _Array) else value


def read_array_pickle(path: Path) -> dict[str, Any]:
    """Return the dict of a pickle that holds numpy arrays, numbers and texts; nothing in it is run.

    Args:
        path: the file; arrays are looked for in the dict and in the dicts directly inside it.

    Raises:
        CheckpointError: the file is no pickle of a dict, or names anything but numpy's arrays.
    """
    try:
        with path.open("rb") as file:
            content = _Unpickler(file, encoding="latin1").load()
    except OSError as err:
        raise CheckpointError(f"{path}: cannot read this file: {err.strerror}.") from err
    except Exception as err:  # whatever damaged bytes make the unpickler do
        raise CheckpointError(
            f"{path}: a .pkl of weights holds numpy arrays and nothing else, and this one does not "
            f"({type(err).__name__}: {err}). Nothing of it was run. Save the weights as a .pth with torch.save."
        ) from err
    if not isinstance(content, dict):
        raise CheckpointError(f"{path}: holds a {type(content).__name__}, not a dict of arrays.")
    return {
        key: {k: _plain(v) for k, v in value.items()} if isinstance(value, dict) else _plain(value)
        for key, value in content.items()
    }
