"""Detectors as ONNX files."""

from __future__ import annotations

import logging
import warnings
from pathlib import Path
from typing import Any

import torch

from d2tiny.export.nms import onnx_translations
from d2tiny.export.recipe import Recipe
from d2tiny.runtime.files import seal
from d2tiny.runtime.metadata import KEY
from d2tiny.utils.errors import ConfigError

__all__ = ["OUTPUTS", "build_onnx", "write_onnx"]

OPSET = 20  # DeformConv has 19, GridSample of this form 20
OUTPUTS = ("boxes", "scores", "classes", "num_detections")
_MOST_SIDE, _MOST_IMAGES = 32768, 64
_EXAMPLE = (160, 224)  # px; with one cell of the coarsest stride, sides would be taken for constants


def build_onnx(recipe: Recipe) -> Any:
    """Return the ``onnx.ModelProto`` of a detector, from uint8 images to detections.

    Raises:
        ConfigError: an operator that cannot be expressed; names it.
    """
    import onnx

    body = _detector(recipe)
    model = onnx.compose.merge_models(
        _preprocessing(recipe, body.ir_version), body, io_map=[("padded", "padded"), ("size", "size")]
    )
    del model.metadata_props[:]
    model.metadata_props.add(key=KEY, value=recipe.metadata.to_json())
    model.producer_name, model.producer_version = "d2tiny", recipe.metadata.d2tiny_version
    _name_dimensions(model)
    onnx.checker.check_model(model)
    return model


def write_onnx(model: Any, path: Path) -> None:
    """Write a model in one file, with a checksum."""
    import onnx

    onnx.save_model(model, path)
    seal(path)


def _detector(recipe: Recipe) -> Any:
    """Return the graph behind preprocessing as ``onnx.ModelProto``; inputs ``padded`` and ``size``."""
    unit = recipe.divisor
    height, width = (torch.export.Dim(name, min=1, max=_MOST_SIDE // unit) for name in ("rows", "columns"))
    batch = torch.export.Dim("batch", min=1, max=_MOST_IMAGES)
    # Without padding there is no rule that says which sides are possible; each operation has its own.
    sides = (torch.export.Dim.AUTO,) * 2 if unit == 1 else (unit * height, unit * width)
    shapes = {"images": {0: batch, 2: sides[0], 3: sides[1]}, "size": {}}
    example = (torch.zeros(2, 3, *_EXAMPLE), torch.tensor(_EXAMPLE))
    with (
        warnings.catch_warnings(),
        _quiet("torch.onnx", "torch.export", "torch.__trace", "onnxscript"),
        torch.no_grad(),
    ):
        warnings.simplefilter("ignore")
        try:
            exported = torch.export.export(recipe.graph, example, dynamic_shapes=shapes, strict=False)
            program = torch.onnx.export(
                exported,
                example,
                dynamo=True,
                opset_version=OPSET,
                input_names=["padded", "size"],
                output_names=list(OUTPUTS),
                custom_translation_table=onnx_translations(),
                optimize=False,  # runtimes fold and fuse when they load a graph; here it takes a third of the time
                verbose=False,
            )
        except (torch.onnx.errors.OnnxExporterError, torch._dynamo.exc.TorchDynamoException) as err:
            raise ConfigError(
                f"{recipe.metadata.config}: cannot be written as ONNX: {_first_line(err)}. Try --format torchscript."
            ) from err
    assert program is not None
    return program.model_proto


class _quiet:
    """Keep loggers from telling what only the exporter's developers want to know."""

    def __init__(self, *names: str) -> None:
        self._loggers = [logging.getLogger(name) for name in names]

    def __enter__(self) -> None:
        self._levels = [logger.level for logger in self._loggers]
        for logger in self._loggers:
            logger.setLevel(logging.ERROR)

    def __exit__(self, *_: object) -> None:
        for logger, level in zip(self._loggers, self._levels, strict=True):
            logger.setLevel(level)


def _first_line(err: BaseException) -> str:
    cause: BaseException = err
    while cause.__cause__ is not None:
        cause = cause.__cause__
    return str(cause).strip().splitlines()[0] if str(cause).strip() else type(cause).__name__


def _preprocessing(recipe: Recipe, ir_version: int) -> Any:
    """Return a graph from ``images`` (B, H, W, 3) uint8 to ``padded`` (B, 3, H', W') float32 and ``size`` (2,)."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    def constant(name: str, values: Any, dtype: torch.dtype) -> Any:
        return numpy_helper.from_array(torch.tensor(values, dtype=dtype).numpy(), f"pre_{name}")

    node, last = helper.make_node, "images"
    nodes, constants = [], []
    if recipe.flip:
        constants.append(constant("order", [2, 1, 0], torch.int64))
        nodes.append(node("Gather", [last, "pre_order"], ["pre_ordered"], axis=3))
        last = "pre_ordered"
    constants += [
        constant("mean", [[[m]] for m in recipe.pixel_mean], torch.float32),
        constant("std", [[[s]] for s in recipe.pixel_std], torch.float32),
    ]
    nodes += [
        node("Cast", [last], ["pre_float"], to=TensorProto.FLOAT),
        node("Transpose", ["pre_float"], ["pre_planes"], perm=[0, 3, 1, 2]),
        node("Sub", ["pre_planes", "pre_mean"], ["pre_centred"]),
        node("Shape", ["images"], ["size"], start=1, end=3),
    ]
    if recipe.divisor == 1:
        nodes.append(node("Div", ["pre_centred", "pre_std"], ["padded"]))
    else:
        constants += [
            constant("divisor", [recipe.divisor] * 2, torch.int64),
            constant("before", [0] * 6, torch.int64),
        ]
        nodes += [
            node("Div", ["pre_centred", "pre_std"], ["pre_normalised"]),
            node("Neg", ["size"], ["pre_minus"]),
            node("Mod", ["pre_minus", "pre_divisor"], ["pre_missing"]),
            node("Concat", ["pre_before", "pre_missing"], ["pre_pads"], axis=0),
            node("Pad", ["pre_normalised", "pre_pads"], ["padded"]),
        ]
    graph = helper.make_graph(
        nodes,
        "detector",
        [helper.make_tensor_value_info("images", TensorProto.UINT8, ["batch", "height", "width", 3])],
        [
            helper.make_tensor_value_info("padded", TensorProto.FLOAT, None),
            helper.make_tensor_value_info("size", TensorProto.INT64, [2]),
        ],
        constants,
    )
    return helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", OPSET)], ir_version=ir_version)


def _name_dimensions(model: Any) -> None:
    """Call the outputs' first dimension ``batch``, as that of the input; sizes inside are left to the runtime."""
    for output in model.graph.output:
        first = output.type.tensor_type.shape.dim[0]
        first.Clear()
        first.dim_param = "batch"
    del model.graph.value_info[:]
