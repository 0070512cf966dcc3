"""Promised: an ONNX operator in PyTorch gives what ONNX's own cases say, or is refused in a sentence; none is wrong.

The cases are those of the `onnx` package (`onnx.backend.test`), run as the networks that are trained.
"""

# ruff: noqa: E402  what needs PyTorch comes after the question whether it is there

import re
import warnings
from collections import defaultdict
from functools import cache
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
from onnx.backend.test.loader import load_model_tests

from halfeven.errors import UnsupportedModel

torch = pytest.importorskip("torch")

from halfeven.training.network import QuantizedNetwork
from halfeven.training.operators import OPERATORS
from halfeven.training.program import constants_of, program_of

REFUSED = {
    "AveragePool": "gaps",
    "BatchNormalization": "training mode",
    "Dropout": "training mode",
    "GatherND": "batch_dims",
    "LSTM": "peepholes",
    "MaxPool": "indices",
    "ReduceMax": "non-zero size",
    "ReduceMin": "non-zero size",
    "Resize": "antialias|tf_crop_and_resize|aspect ratio",
    "ScatterElements": "reduction",
    "ScatterND": "reduction",
}
NO_CASES = {"CastLike", "Cast", "GlobalLpPool"}


def arrays(case: Any) -> tuple[list[np.ndarray], list[np.ndarray]] | None:
    """Inputs and outputs; None where one is a sequence, or of a type that PyTorch has not."""
    found = [*case.data_sets[0][0], *case.data_sets[0][1]]
    if any(isinstance(x, list | tuple) or x is None for x in found):
        return None
    plain = [np.asarray(x) for x in found]
    if any(x.dtype.kind not in "fiub" or x.dtype in (np.uint16, np.uint32, np.uint64) for x in plain):
        return None
    count = len(case.data_sets[0][0])
    return plain[:count], plain[count:]


@cache
def cases() -> dict[str, list[Any]]:
    """Cases of one node, by operator."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        loaded = load_model_tests(kind="node")
    found = defaultdict(list)
    for case in loaded:
        nodes = case.model.graph.node
        if len(nodes) == 1 and not nodes[0].domain and arrays(case) is not None:
            found[nodes[0].op_type].append(case)
    return found


@pytest.mark.parametrize("op", sorted(OPERATORS))
def test_an_operator_gives_what_onnx_says_or_is_refused(op: str) -> None:
    checked = 0
    for case in cases()[op]:
        inputs, outputs = arrays(case) or ([], [])
        try:
            model = ir.from_proto(case.model)
            network = QuantizedNetwork(program_of(model), constants_of(model), {})
            given = network(*map(torch.tensor, inputs))
        except UnsupportedModel as error:
            refused = str(error)
        else:
            refused = ""
        if refused:
            assert re.search(REFUSED.get(op, "^$"), refused), f"{case.name}: {refused}"
            continue
        for ours, expected in zip(given if isinstance(given, tuple) else (given,), outputs, strict=True):
            assert ours.detach().numpy().dtype == expected.dtype, case.name
            np.testing.assert_allclose(ours.detach().numpy(), expected, rtol=1e-3, atol=1e-5, err_msg=case.name)
            checked += 1
    assert checked or op in NO_CASES


def test_gradients_agree_with_finite_differences() -> None:
    text = {
        "conv": ("(double[1,2,5,5] x, double[3,2,3,3] w) => (double y) { y = Conv <pads = [1, 0, 2, 1]> (x, w) }"),
        "resize": (
            "(double[1,1,3,3] x) => (double y) { s = Constant <value_ints = [1, 1, 5, 7]> ()"
            '  y = Resize <mode = "linear"> (x, , , s) }'
        ),
        "norm": "(double[2,6] x, double[6] g) => (double y) { y = LayerNormalization(x, g) }",
        "pool": "(double[1,1,5,5] x) => (double y) { y = AveragePool <kernel_shape = [3, 3], pads = [1, 1, 0, 0]> (x) }",
        "softmax": "(double[2,5] x) => (double y) { y = Softmax(x) }",
        "gru": (
            "(double[3,2,2] x, double[1,9,2] w, double[1,9,3] r) => (double y, double h)"
            " { y, h = GRU <hidden_size = 3> (x, w, r) }"
        ),
    }
    for graph in text.values():
        model = ir.from_onnx_text(f'<ir_version: 10, opset_import: ["" : 21]> g {graph}')
        network = QuantizedNetwork(program_of(model), constants_of(model), {})
        rng = torch.Generator().manual_seed(0)
        shapes = [tuple(int(d) for d in v.shape or ()) for v in model.graph.inputs]
        inputs = [torch.randn(s, generator=rng, dtype=torch.float64).requires_grad_() for s in shapes]
        assert torch.autograd.gradcheck(network, inputs)
