"""Exported models without training: a graph that finds bright squares exactly, as ``tests.helpers.squares`` does."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import onnx
from onnx import helper, parser

from d2tiny.runtime.backends import openvino_core
from d2tiny.runtime.files import seal
from d2tiny.runtime.metadata import KEY, RT_INFO_PATH, ModelMetadata

# Upper left corners are bright pixels with dark ones above and to the left; the next dark pixel to the right and below
# ends a square. Red ones are of class 0, blue ones of class 1.
_GRAPH = """
<ir_version: 9, opset_import: ["" : 18]>
squares (uint8[B,H,W,3] images) => (
    float[B,D,4] boxes, float[B,D] scores, int64[B,D] classes, int64[B] num_detections
)
<int64[2] order = {ORDER}, float limit = {130}, float half = {0.5}, float one = {1}, float most = {4000},
 float scale = {0.0001}, int64 zero = {0}, int64 step = {1}, int64[1] one1 = {1}, int64[1] zero1 = {0},
 int64[1] minus = {-1}, int64[1] y_axis = {1}, int64[1] x_axis = {2}, int64[8] pad_x = {0,0,1,0,0,0,0,0},
 int64[8] pad_y = {0,1,0,0,0,0,0,0}, int64[3] all = {1,2,3}, int64[1] first = {0}, int64[4] single = {1,1,1,1},
 int64[1] four = {4}>
{
    chosen = Gather<axis = 3>(images, order)
    values = Cast<to = 1>(chosen)
    bright = Greater(values, limit)
    m = Cast<to = 1>(bright)
    padded_x = Pad(m, pad_x)
    left = Slice(padded_x, zero1, minus, x_axis)
    padded_y = Pad(m, pad_y)
    up = Slice(padded_y, zero1, minus, y_axis)
    no_left = Sub(one, left)
    no_up = Sub(one, up)
    edge = Mul(m, no_left)
    corner = Mul(edge, no_up)
    is_corner = Greater(corner, half)
    found = NonZero(is_corner)
    index = Transpose<perm = [1, 0]>(found)
    b, y, x, c = Split<axis = 1>(index, single)
    by_row = Transpose<perm = [0, 1, 3, 2]>(m)
    row_index = Concat<axis = 1>(b, y, c)
    rows = GatherND(by_row, row_index)
    by_column = Transpose<perm = [0, 2, 3, 1]>(m)
    column_index = Concat<axis = 1>(b, x, c)
    columns = GatherND(by_column, column_index)
    shape = Shape(m)
    height = Gather(shape, one1)
    width_index = Add(one1, one1)
    width = Gather(shape, width_index)
    width0 = Squeeze(width, first)
    height0 = Squeeze(height, first)
    px = Range(zero, width0, step)
    py = Range(zero, height0, step)
    dark_row = Less(rows, half)
    dark_column = Less(columns, half)
    right_of = GreaterOrEqual(px, x)
    below = GreaterOrEqual(py, y)
    end_row = And(dark_row, right_of)
    end_column = And(dark_column, below)
    xs = Where(end_row, px, width0)
    ys = Where(end_column, py, height0)
    x1 = ReduceMin<keepdims = 1>(xs, one1)
    y1 = ReduceMin<keepdims = 1>(ys, one1)
    corners = Concat<axis = 1>(x, y, x1, y1)
    flat_boxes = Cast<to = 1>(corners)
    w = Sub(x1, x)
    h = Sub(y1, y)
    area = Mul(w, h)
    area_f = Cast<to = 1>(area)
    capped = Min(area_f, most)
    part = Mul(capped, scale)
    score_column = Add(part, half)
    flat_scores = Squeeze(score_column, one1)
    flat_classes = Squeeze(c, one1)
    corner_numbers = Cast<to = 7>(is_corner)
    num_detections = ReduceSum<keepdims = 0>(corner_numbers, all)
    before = CumSum<exclusive = 1>(num_detections, zero)
    b0 = Squeeze(b, one1)
    start = Gather(before, b0)
    index_shape = Shape(index)
    count1 = Gather(index_shape, zero1)
    count = Squeeze(count1, first)
    number = Range(zero, count, step)
    rank = Sub(number, start)
    rank1 = Unsqueeze(rank, one1)
    place = Concat<axis = 1>(b, rank1)
    most_found = ReduceMax<keepdims = 1>(num_detections, zero1)
    depth = Add(most_found, one1)
    batch = Gather(shape, zero1)
    flat_shape = Concat<axis = 0>(batch, depth)
    box_shape = Concat<axis = 0>(batch, depth, four)
    no_boxes = Expand(zero_f, box_shape)
    no_scores = Expand(zero_f, flat_shape)
    no_classes = Expand(zero, flat_shape)
    boxes = ScatterND(no_boxes, place, flat_boxes)
    scores = ScatterND(no_scores, place, flat_scores)
    classes = ScatterND(no_classes, place, flat_classes)
}
""".replace("int64[1] four = {4}>", "int64[1] four = {4}, float zero_f = {0}>")


def metadata(**more: Any) -> ModelMetadata:
    """Return what a model of squares says of itself."""
    standard: dict[str, Any] = {
        "config": "quick/squares",
        "family": "squares",
        "classes": ("red", "blue"),
        "channels": "RGB",
        "protocol": "aitod",
        "tile": 128,
        "max_size": None,
        "resize": None,
        "batch": True,
        "nms_thresh": 0.5,
        "score_thresh": 0.05,
        "max_detections": 1000,
        "precision": "fp32",
        "weights_sha256": "0" * 64,
        "d2tiny_version": "0.1.0",
        "title": "Bright squares",
    }
    return ModelMetadata(**{**standard, **more})


def squares_graph(about: ModelMetadata | None = None, *, text: str | None = None) -> onnx.ModelProto:
    """Return the graph; ``text`` is written in the place of the metadata."""
    about = about or metadata()
    graph = _GRAPH.replace("ORDER", "0, 2" if about.channels == "RGB" else "2, 0")
    model = parser.parse_model(graph)
    helper.set_model_props(model, {"producer": "tests", KEY: about.to_json() if text is None else text})
    onnx.checker.check_model(model, full_check=True)
    return model


def write_onnx(path: Path, about: ModelMetadata | None = None) -> Path:
    """Write the model as ONNX."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(squares_graph(about).SerializeToString())
    seal(path)
    return path


def write_openvino(path: Path, about: ModelMetadata | None = None) -> Path:
    """Write the model as an ``.xml`` of OpenVINO and its ``.bin``."""
    import openvino

    about = about or metadata()
    source = write_onnx(path.with_name("source.onnx.tmp"), about)
    model = openvino_core().read_model(source.read_bytes())
    source.unlink()
    model.set_rt_info(about.to_json(), list(RT_INFO_PATH))
    openvino.save_model(model, path, compress_to_fp16=False)
    seal(path)
    return path
