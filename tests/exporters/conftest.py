"""The oracle of the exporters' tests.

It runs every node of the float graph alone, on operands that this file rounds by its own few lines of arithmetic:
(clip(rint(x / scale) + zero) - zero) * scale, biases at f32(input scale * weight scale).
"""

from collections.abc import Callable

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from halfeven.draft import Batch, Draft, pipeline
from halfeven.exporters.onnx import to_qdq
from halfeven.graph.plan import Plan, Quantizer, Site
from halfeven.run.ort import OrtExecutor
from halfeven.steps.calibrate import Calibrate
from halfeven.steps.equalize import Equalize
from halfeven.steps.gptq import Gptq
from halfeven.steps.observe import Observe


def _round(x: np.ndarray, quantizer: Quantizer) -> np.ndarray:
    params, grid = quantizer.params, quantizer.scheme.grid
    assert params is not None
    scale, zero = params.scale, params.zero_point.astype(np.float32)
    if scale.size == 1:
        scale, zero = scale.reshape(()), zero.reshape(())
    codes = np.clip(np.rint(x / scale) + zero, grid.low, grid.high)
    return np.asarray((codes - zero) * scale, np.float32)


def _operand(plan: Plan, node: ir.Node, port: int, x: np.ndarray) -> np.ndarray:
    """What input `port` of `node` reads under the plan when it would read `x`."""
    value, name = node.inputs[port], node.name or ""
    assert value is not None
    quantizer = plan.seen_by(value.name or "", name, port)
    if quantizer is None:
        return x
    if quantizer.role != "bias" or quantizer.params is not None:
        return _round(x, quantizer)
    sources = [plan.seen_by(node.inputs[p].name or "", name, p) for p in (0, 1)]  # type: ignore[union-attr]
    a, b = (s.params.scale.ravel() for s in sources)  # type: ignore[union-attr]
    scale = (a * b).astype(np.float32)
    codes = np.rint((x / scale).astype(np.float64)).astype(np.int32)
    return codes.astype(np.float32) * scale


def _alone(node: ir.Node, operands: list[np.ndarray | None], opset: int) -> list[np.ndarray]:
    """The outputs of one node, by the runtime, without optimisations."""
    names = [f"i{k}" for k in range(len(operands))]
    infos = [
        onnx.helper.make_tensor_value_info(n, onnx.helper.np_dtype_to_tensor_dtype(x.dtype), x.shape)
        for n, x in zip(names, operands, strict=True)
        if x is not None
    ]
    proto = ir.serde.serialize_node(node)
    del proto.input[:], proto.output[:]
    proto.input.extend(n if x is not None else "" for n, x in zip(names, operands, strict=True))
    outs = [f"o{k}" if v.name else "" for k, v in enumerate(node.outputs)]
    proto.output.extend(outs)
    graph = onnx.helper.make_graph([proto], "one", infos, [onnx.ValueInfoProto(name=n) for n in outs if n])
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", opset)], ir_version=8)
    found = OrtExecutor(ir.from_proto(model), optimize=False, threads=1)(
        {n: x for n, x in zip(names, operands, strict=True) if x is not None}
    )
    return list(found.values())


def _by_hand(draft: Draft, feeds: Batch) -> Batch:
    """The outputs of the network that the draft describes."""
    values = dict(feeds)
    values.update({n: v.const_value.numpy() for n, v in draft.model.graph.initializers.items()})
    for node in draft.model.graph:
        operands = [
            None if value is None else _operand(draft.plan, node, port, values[value.name or ""])
            for port, value in enumerate(node.inputs)
        ]
        made = _alone(node, operands, draft.model.opset_imports[""])
        values.update(zip((v.name for v in node.outputs if v.name), made, strict=True))
    out = {}
    for value in draft.model.graph.outputs:
        quantizer = draft.plan.at(Site(value.name or ""))
        out[value.name or ""] = (
            values[value.name or ""] if quantizer is None else _round(values[value.name or ""], quantizer)
        )
    return out


def _assert_as_by_hand(draft: Draft, data: list) -> ir.Model:
    quantized = to_qdq(draft)
    run = OrtExecutor(quantized, optimize=False, threads=1)
    for _, feeds in data:
        expected, found = _by_hand(draft, feeds), run(feeds)
        assert list(found) == list(expected)
        for name, array in expected.items():
            np.testing.assert_array_equal(found[name], array, err_msg=name)
    return quantized


def _assert_sound(draft: Draft, quantized: ir.Model) -> None:
    """Checked by onnx; nothing is left over; the interface is the source's."""
    proto = ir.to_proto(quantized)
    onnx.checker.check_model(proto, full_check=True)
    graph = quantized.graph
    assert all(value.uses() or value.is_graph_output() for value in graph.initializers.values())
    for node in graph:
        assert any(value.uses() or value.is_graph_output() for value in node.outputs), node.name
    names = [node.name for node in graph]
    assert len(set(names)) == len(names)
    for a, b in ((draft.model.graph.inputs, graph.inputs), (draft.model.graph.outputs, graph.outputs)):
        assert [(v.name, v.dtype, v.shape) for v in a] == [(v.name, v.dtype, v.shape) for v in b]
    assert _to_bytes(to_qdq(draft)) == _to_bytes(quantized)


def _to_bytes(model: ir.Model) -> bytes:
    return ir.to_proto(model).SerializeToString(deterministic=True)


def _calibrated(draft: Draft, data: list, *, refine: bool = False, method: str = "minmax") -> Draft:
    first, last = ([Equalize()], [Gptq()]) if refine else ([], [])
    return pipeline(*first, Observe(), Calibrate(method=method), *last)(draft, data)


@pytest.fixture(scope="session")
def calibrated() -> Callable[..., Draft]:
    """`calibrated(draft, data, refine=False, method="minmax")`: observed, with scales; `refine`: with all steps."""
    return _calibrated


@pytest.fixture(scope="session")
def as_by_hand() -> Callable[[Draft, list], ir.Model]:
    """`as_by_hand(draft, data)`: the QDQ model, which computes on `data` what the plan says, bit for bit."""
    return _assert_as_by_hand


@pytest.fixture(scope="session")
def sound() -> Callable[[Draft, ir.Model], None]:
    """`sound(draft, quantized)`: checked by onnx; nothing is left over; the interface is the source's."""
    return _assert_sound
