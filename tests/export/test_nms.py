"""The operator of grouped NMS, and what the formats make of it, against NMS group by group."""

import numpy as np
import pytest
import torch

from d2tiny.export.nms import LOWEST, grouped_nms, onnx_translations
from d2tiny.ops.nms import batched_nms
from d2tiny.runtime.backends import openvino_core


class _Graph(torch.nn.Module):
    def forward(self, boxes, scores):
        return grouped_nms(boxes, scores, 0.5)


def _boxes(groups=3, count=200):
    generator = torch.Generator().manual_seed(0)
    corner = torch.rand(groups, count, 2, generator=generator) * 60
    boxes = torch.cat((corner, corner + 4 + torch.rand(groups, count, 2, generator=generator) * 12), dim=2)
    scores = torch.randn(groups, count, generator=generator)  # logits, also negative
    scores[0, ::7] = -torch.inf  # places without a box
    return boxes, scores


def _expected(boxes, scores):
    keep = torch.zeros(scores.shape, dtype=torch.bool)
    for group, (own, score) in enumerate(zip(boxes, scores, strict=True)):
        index = (score > LOWEST).nonzero().flatten()
        keep[group, index[batched_nms(own[index], score[index], torch.zeros(len(index)), 0.5)]] = True
    return keep


def test_operator_keeps_what_nms_of_each_group_keeps():
    boxes, scores = _boxes()
    kept = _Graph()(boxes, scores)
    assert torch.equal(kept, _expected(boxes, scores))
    assert not kept[0, ::7].any() and 0 < kept.sum() < kept.numel()


def test_torchscript_has_a_loop_over_groups():
    traced = torch.jit.trace(_Graph(), _boxes(2, 50))
    boxes, scores = _boxes()  # other numbers of groups and boxes
    assert torch.equal(traced(boxes, scores), _expected(boxes, scores))


@pytest.mark.parametrize("backend", ["onnxruntime", "openvino"])
def test_onnx_has_one_operator(backend, tmp_path):
    boxes, scores = _boxes()
    groups = torch.export.Dim("groups")
    shapes = {"boxes": {0: groups}, "scores": {0: groups}}
    program = torch.onnx.export(
        _Graph().eval(),
        (boxes, scores),
        dynamo=True,
        opset_version=20,
        dynamic_shapes=shapes,
        custom_translation_table=onnx_translations(),
        optimize=False,
        verbose=False,
    )
    program.save(tmp_path / "nms.onnx")
    for count in (3, 1):
        args = [x[:count].numpy() for x in (boxes, scores)]
        assert np.array_equal(_run(backend, tmp_path / "nms.onnx", args), _expected(boxes[:count], scores[:count]))


def _run(backend, path, args):
    if backend == "openvino":
        return openvino_core().compile_model(path, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})(args)[0]
    import onnxruntime

    session = onnxruntime.InferenceSession(path)
    return session.run(None, dict(zip([i.name for i in session.get_inputs()], args, strict=True)))[0]
